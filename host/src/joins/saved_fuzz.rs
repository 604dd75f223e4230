//! The file of the budgets, as a target (`crate::fuzz`).

use super::*;
use crate::{
    joins::budget::{PinBudget, PinLimits, Rate},
    sessions::SessionId,
};

const NOW: u64 = 1_700_000_000_000;

/// The file; after `s`, one whose sum is made right. What is understood is written in the same bytes; whatever it says of a pin, that is guessed no more often than
/// a pin of which nothing was kept, and an administrator opens it.
pub(crate) fn file(bytes: &[u8]) -> bool {
    let whole = match bytes {
        [b's', content @ ..] => [content, digest(&SHA256, content).as_ref()].concat(),
        _ => bytes.to_vec(),
    };
    let Some(budgets) = decode(&whole) else { return false };
    assert_eq!(encode(&budgets), whole);
    let limits = PinLimits { rate: Rate::new(10, 6, 3_600_000), total: 100 };
    for saved in budgets.iter().take(20) {
        if let Some(id) = SessionId::unpack(saved.id) {
            assert_eq!(id.packed(), saved.id);
        }
        let budget = PinBudget::default();
        budget.set(saved.word);
        assert_eq!(budget.word(), saved.word);
        assert!((0..20).filter(|_| budget.charge(limits, NOW)).count() <= 10 && budget.is_spent(limits, NOW), "{saved:?}");
        budget.refill();
        assert!(budget.charge(limits, NOW), "{saved:?}");
    }
    true
}
