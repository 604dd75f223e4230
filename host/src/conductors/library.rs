//! placeholder until the loader lands
use conductor_abi::{
    async_ffi::BorrowingFfiFuture,
    contract::{Created, HostObj},
};
/// x
#[derive(Debug)]
pub struct Library;
impl Library {
    /// x
    pub fn create<'a>(&'a self, _: &'a str, _: HostObj, _: &'a [u8], _: &'a [u8]) -> BorrowingFfiFuture<'a, Created> {
        BorrowingFfiFuture::new(std::future::pending())
    }
}
