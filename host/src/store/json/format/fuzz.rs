//! The store's file, as a target (`crate::fuzz`).

use super::*;

/// When clients of an old file lose their grants.
const UNTIL: u64 = 1_735_776_000;

/// What is understood is written so that it is understood in the same way, and in the same bytes again.
pub(crate) fn file(bytes: &[u8]) -> bool {
    let read = parse(bytes, UNTIL);
    assert_eq!(read.is_err(), parse_all(bytes, UNTIL).is_err(), "one reader refuses what the other takes");
    let Ok(content) = read else { return false };
    let written = rendered(&content);
    let again = parse(&written, UNTIL).unwrap_or_else(|error| panic!("what was written is refused: {error}"));
    assert_eq!(content.sessions.keys().collect::<Vec<_>>(), again.sessions.keys().collect::<Vec<_>>());
    assert_eq!(written, rendered(&again), "written a second time, it is another file");
    for (id, session) in &content.sessions {
        let text = record(session).unwrap_or_else(|error| panic!("the record of {id} cannot be written: {error}"));
        assert!(!text.contains('\n'));
        let again = parse_record(*id, &text, &mut HashSet::new()).unwrap_or_else(|error| panic!("the record of {id} is refused: {error}"));
        assert_eq!(record(&again).ok(), Some(text));
    }
    true
}

fn rendered(content: &Content) -> Vec<u8> {
    let mut bytes = Vec::new();
    render(&mut bytes, content).unwrap_or_else(|error| panic!("it cannot be written: {error}"));
    bytes
}
