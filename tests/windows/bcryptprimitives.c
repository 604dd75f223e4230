/* Wine 8 lacks this library, from which Rust's standard library takes random numbers. Windows has it; for the tests under Wine this
 * one lies beside the program. To the tests it is a DLL that is no plugin, too. */
#include <windows.h>

/* RtlGenRandom under the name by which advapi32 exports it. */
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG length);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length)
{
    while (length > 0) {
        ULONG piece = length > 65536 ? 65536 : (ULONG)length;
        if (!SystemFunction036(data, piece))
            return FALSE;
        data += piece;
        length -= piece;
    }
    return TRUE;
}
