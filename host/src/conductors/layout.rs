//! Compares the types of a plugin's contract with the host's.

use conductor_abi::abi_stable::{
    abi_stability::abi_checking::{
        AbiInstability, AbiInstabilityErrors, CheckingGlobals, check_layout_compatibility_with_globals as check,
    },
    type_layout::{TLFieldOrFunction, TypeLayout},
};

use super::refusal::{Reason, one_line};

/// Whether two versions of the contract's root, and of all types that can be reached from it, fit together.
///
/// `abi_stable` allows only the second of two to have more functions in a table; here either side may, so both directions are
/// tried. Each comparison starts from nothing: with what `abi_stable` would remember of earlier plugins, a good one is refused
/// after one of another minor version.
///
/// # Errors
/// [`Reason::OtherLayout`].
pub(super) fn compatible(ours: &'static TypeLayout, theirs: &'static TypeLayout) -> Result<(), Reason> {
    let Err(errors) = check(ours, theirs, &CheckingGlobals::new()) else { return Ok(()) };
    check(theirs, ours, &CheckingGlobals::new()).map_err(|_| Reason::OtherLayout { difference: first(&errors) })
}

/// The path to the first difference, and the difference. The whole would be some 1,700 lines.
fn first(errors: &AbiInstabilityErrors) -> String {
    // Errors without a difference are the types around one that has it. A table with more or fewer functions is allowed, and
    // only of interest where nothing else is found.
    let counts = |difference: &AbiInstability| matches!(difference, AbiInstability::FieldCountMismatch(_));
    let differences = || errors.errors.iter().flat_map(|error| error.errs.iter().map(move |difference| (error, difference)));
    let found = differences().find(|(_, difference)| !counts(difference)).or_else(|| differences().next());
    let Some((error, difference)) = found else { return "an unknown place".to_owned() };
    let steps = error.stack_trace.iter().filter_map(|step| match step.found {
        TLFieldOrFunction::Field(field) => Some((field.name(), field.full_type().name())),
        // The field before has the same name.
        TLFieldOrFunction::Function(_) => None,
    });
    let path: Vec<_> = steps
        .map(|(name, type_name)| match type_name {
            "AFunctionPointer" => name.to_owned(),
            _ if name.starts_with(|c: char| c.is_ascii_digit()) => type_name.to_owned(),
            _ => format!("{}: {type_name}", name.trim_start_matches('_')),
        })
        .collect();
    one_line(&format!("{} ({difference:?})", path.join(" > ")), 300)
}
