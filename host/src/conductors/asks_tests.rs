//! A plugin of a later SDK in this host: what it asks may be unknown here.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use conductor_abi::{
    abi_stable::std_types::RErr,
    contract::{Event, HostObject},
    wire::{call, code},
};

use super::answer;
use crate::{
    conductors::services::LibraryHost,
    sessions::place::{NOW, Place, id, stored},
};

/// What the first poll answers.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("what is not known needs no waiting"),
    }
}

#[test]
fn a_call_of_a_later_version_is_answered_unsupported_at_once() {
    let place = Place::with([stored("123456", NOW, &[])]);
    let session = place.manager.get(id("123456")).unwrap();
    let failure = at_once(answer(&session, 0, &Event::new("teleport"))).unwrap_err();
    assert_eq!(failure.code, code::UNSUPPORTED, "{}", failure.message);
    let of_a_library = LibraryHost { file: "x.so".into() };
    let RErr(failure) = at_once(of_a_library.call(Event::new("teleport"))) else { panic!("this is not known") };
    assert_eq!(failure.code, code::UNSUPPORTED, "{}", failure.message);
}

#[test]
fn a_key_of_a_later_version_in_a_known_call_is_passed_over() {
    let place = Place::with([stored("123456", NOW, &[])]);
    let session = place.manager.get(id("123456")).unwrap();
    let body = br#"{"max_clients":3,"of_a_later_version":{}}"#.as_slice();
    let meta = br#"{"of_a_later_version":[]}"#.as_slice();
    let answered = place.run(answer(&session, 0, &Event { body: body.into(), meta: meta.into(), ..Event::new(call::JOIN_RULES) }));
    assert!(answered.is_ok(), "{answered:?}");
    assert_eq!(session.record().extra.as_ref().and_then(|extra| extra.max_clients), Some(3));
}
