//! The mailbox: who finds room in it.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::sessions::{
    Caller, CloseReason,
    place::{NOW, Place, id, stored},
};

/// A session whose conductor handles one event for ever: all that comes waits.
fn stuck(place: &Place) -> Arc<Session> {
    let session = place.manager.get(id("111111")).unwrap();
    let mut inner = session.lock();
    (inner.conductor, inner.state) = (Conductor::NotMade, State::Waiting);
    drop(inner);
    session
}

fn post(session: &Arc<Session>, what: What) -> Result<(), Trouble> {
    let deadline = Instant::now() + Duration::from_secs(60);
    session.post(Event { what, deadline, time: 0, answer: None })
}

fn request() -> What {
    What::Request { method: String::new(), params: Bytes::new(), caller: Caller::host() }
}

fn joining() -> What {
    What::Joining { client_id: "a".into(), caller: Caller::host() }
}

fn timer() -> What {
    What::Timer { name: "t".into(), due: 0 }
}

/// How many of them find room.
fn fill(session: &Arc<Session>, what: fn() -> What) -> usize {
    let posted = (0..3 * MAILBOX).take_while(|_| post(session, what()).is_ok()).count();
    assert!(matches!(post(session, what()), Err(Trouble::Overloaded)));
    posted
}

#[test]
fn requests_leave_room_for_joins_and_joins_for_what_cannot_be_told_again() {
    let place = Place::with([stored("111111", NOW, &[])]);
    let session = stuck(&place);
    assert_eq!(fill(&session, request), MAILBOX);
    assert_eq!(fill(&session, joining), RESERVED / 2);
    let left = || What::Left { client_id: "a".into(), reason: "kicked" };
    assert!(post(&session, left()).is_ok());
    assert_eq!(fill(&session, timer), RESERVED / 2 - 1);
    assert!(matches!(post(&session, left()), Err(Trouble::Overloaded)));
    assert!(post(&session, What::Close(CloseReason::Requested)).is_ok(), "the end always finds room");
}

#[test]
fn bytes_count_too() {
    let place = Place::with([stored("111111", NOW, &[])]);
    let session = stuck(&place);
    let large = || What::Request { method: String::new(), params: vec![0; MAILBOX_BYTES / 2].into(), caller: Caller::host() };
    assert_eq!(fill(&session, large), 2);
    assert!(post(&session, request()).is_ok() && post(&session, timer()).is_ok());
}
