//! A plugin of a later SDK in this host: what it asks may be unknown here.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use conductor_abi::{
    abi_stable::std_types::{RErr, ROk},
    contract::{Event, HostObj, Reply},
    wire::{call, code},
};

use super::{LibraryHost, SessionHost};
use crate::sessions::place::{NOW, Place, id, stored};

/// What the first poll answers.
fn at_once(host: &HostObj, call: Event<'_>) -> Option<Reply> {
    match pin!(host.call(call)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(reply) => Some(reply),
        Poll::Pending => None,
    }
}

#[test]
fn a_call_of_a_later_version_is_answered_unsupported_at_once() {
    let place = Place::with([stored("123456", NOW, &[])]);
    let session = place.manager.get(id("123456")).unwrap();
    let of_a_session = HostObj::new(SessionHost::new(&session, 0));
    let of_a_library = HostObj::new(LibraryHost { file: "x.so".into() });
    for host in [&of_a_session, &of_a_library] {
        let Some(RErr(failure)) = at_once(host, Event::new("teleport")) else { panic!("this is not known, and needs no waiting") };
        assert_eq!(failure.code, code::UNSUPPORTED, "{}", failure.message);
    }
    // One that is known.
    assert!(matches!(at_once(&of_a_session, Event::new(call::NOW)), Some(ROk(_))));
}

#[test]
fn a_key_of_a_later_version_in_a_known_call_is_passed_over() {
    let place = Place::with([stored("123456", NOW, &[])]);
    let session = place.manager.get(id("123456")).unwrap();
    let host = HostObj::new(SessionHost::new(&session, 0));
    let body = br#"{"max_clients":3,"of_a_later_version":{}}"#.as_slice();
    let meta = br#"{"of_a_later_version":[]}"#.as_slice();
    let answer = place.run(host.call(Event { body: body.into(), meta: meta.into(), ..Event::new(call::JOIN_RULES) }));
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(session.record().extra.as_ref().and_then(|extra| extra.max_clients), Some(3));
}
