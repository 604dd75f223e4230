use tokio::sync::oneshot::{self, Receiver, error::TryRecvError};

use super::*;

type Fate = Receiver<Result<(), BrokerError>>;

fn message(session: &str, name: &str, qos: u8) -> (Outgoing, Fate) {
    let session = SessionId::parse(session).unwrap();
    let (answer, fate) = oneshot::channel();
    let topic = format!("{}{name}", session.topic_prefix());
    (Outgoing { session, topic, payload: Bytes::from_static(b"payload"), qos, retain: false, tries: 0, answer: Some(answer) }, fate)
}

fn queue(outbox: &mut Outbox, name: &str, qos: u8) -> Fate {
    let (message, fate) = message("123456", name, qos);
    outbox.push(message).unwrap();
    fate
}

/// Sends all that may be sent: packet id and topic of each.
fn send(outbox: &mut Outbox, window: usize) -> Vec<(u16, String)> {
    let mut sent = Vec::new();
    while let Some((id, message)) = outbox.front(window) {
        sent.push((id, message.topic.clone()));
        outbox.launched(id);
    }
    sent
}

fn topics(sent: &[(u16, String)]) -> Vec<&str> {
    sent.iter().map(|(_, topic)| topic.trim_start_matches("/123456/")).collect()
}

#[test]
fn messages_leave_in_order_and_no_more_than_the_window_is_unacknowledged() {
    let mut outbox = Outbox::default();
    let mut fates: Vec<_> = [("a", 1), ("b", 0), ("c", 2), ("d", 1), ("e", 0)].map(|(name, qos)| queue(&mut outbox, name, qos)).into();
    let sent = send(&mut outbox, 2);
    assert_eq!(topics(&sent), ["a", "b", "c"], "what is behind one that must wait waits, too");
    assert!(fates[1].try_recv().unwrap().is_ok(), "QoS 0 is done when it is written");
    assert_eq!(fates[0].try_recv().unwrap_err(), TryRecvError::Empty);
    assert!(outbox.settled(sent[0].0, Stage::Received, Ok(())));
    assert!(fates[0].try_recv().unwrap().is_ok());
    assert_eq!(topics(&send(&mut outbox, 2)), ["d", "e"]);
    let exactly_once = sent[2].0;
    outbox.released(exactly_once);
    assert!(!outbox.settled(exactly_once, Stage::Received, Ok(())), "PUBREC was there already");
    assert!(outbox.settled(exactly_once, Stage::Released, Ok(())));
    assert!(!outbox.settled(exactly_once, Stage::Released, Ok(())), "settled once");
}

#[test]
fn a_refusal_reaches_who_waits() {
    let mut outbox = Outbox::default();
    let mut fate = queue(&mut outbox, "a", 1);
    let id = send(&mut outbox, 9)[0].0;
    outbox.settled(id, Stage::Received, Err(BrokerError::Failed("no".into())));
    assert!(matches!(fate.try_recv().unwrap(), Err(BrokerError::Failed(_))));
    let mut fate = queue(&mut outbox, "b", 2);
    outbox.refused(BrokerError::Failed("too long".into()));
    assert!(fate.try_recv().unwrap().is_err());
    assert_eq!((outbox.len(), outbox.bytes), (0, 0));
}

#[test]
fn the_queue_is_bounded_in_messages_and_in_bytes() {
    let mut outbox = Outbox::default();
    for _ in 0..MOST_MESSAGES {
        drop(queue(&mut outbox, "a", 1));
    }
    assert!(outbox.push(message("123456", "a", 1).0).is_err());
    // What is sent and not acknowledged counts still.
    send(&mut outbox, 5);
    assert!(outbox.push(message("123456", "a", 1).0).is_err());

    let mut outbox = Outbox::default();
    let large = |bytes: usize| {
        let mut large = message("123456", "", 1).0;
        large.payload = Bytes::from(vec![0; bytes]);
        large
    };
    outbox.push(large(MOST_BYTES - "/123456/".len())).unwrap();
    assert!(outbox.push(large(0)).is_err());
    let id = send(&mut outbox, 1)[0].0;
    outbox.settled(id, Stage::Received, Ok(()));
    outbox.push(large(1)).unwrap();
}

#[test]
fn a_broker_that_forgot_us_gets_everything_again_but_what_it_said_it_has() {
    let mut outbox = Outbox::default();
    let mut fates: Vec<_> = [("a", 1), ("b", 2), ("c", 2), ("d", 1)].map(|(name, qos)| queue(&mut outbox, name, qos)).into();
    let sent = send(&mut outbox, 3);
    outbox.released(sent[1].0);
    let stages: Vec<_> = outbox.unacknowledged().map(|(id, stage, _)| (id, stage)).collect();
    assert_eq!(stages, [(1, Stage::Received), (2, Stage::Released), (3, Stage::Received)]);
    outbox.forget_flights();
    assert!(fates[1].try_recv().unwrap().is_ok());
    let again = send(&mut outbox, 9);
    assert_eq!(topics(&again), ["a", "c", "d"]);
    for (id, _) in again {
        outbox.settled(id, Stage::Received, Ok(()));
    }
    assert_eq!((outbox.len(), outbox.bytes), (0, 0));
}

#[test]
fn a_lost_link_ends_qos_0_and_a_closed_session_ends_its_own() {
    let mut outbox = Outbox::default();
    let mut lost = queue(&mut outbox, "a", 0);
    let mut kept = queue(&mut outbox, "b", 1);
    outbox.link_lost(&Arc::from("gone"));
    assert!(matches!(lost.try_recv().unwrap(), Err(BrokerError::Down(reason)) if &*reason == "gone"));
    let (other, mut other_fate) = message("654321", "b", 1);
    outbox.push(other).unwrap();
    let closed = SessionId::parse("123456").unwrap();
    outbox.withdraw(|message| message.session == closed, |message| BrokerError::Closed(message.session));
    assert!(matches!(kept.try_recv().unwrap(), Err(BrokerError::Closed(_))));
    assert_eq!(other_fate.try_recv().unwrap_err(), TryRecvError::Empty);
    assert_eq!(outbox.len(), 1);
}

#[test]
fn packet_ids_in_use_are_not_given_again() {
    let mut outbox = Outbox { last_id: LAST_ID - 1, ..Outbox::default() };
    for _ in 0..3 {
        drop(queue(&mut outbox, "a", 1));
    }
    let ids: Vec<_> = send(&mut outbox, 9).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [LAST_ID, 1, 2]);
    outbox.last_id = LAST_ID;
    drop(queue(&mut outbox, "a", 1));
    assert_eq!(send(&mut outbox, 9)[0].0, 3);
}

#[test]
fn a_message_that_no_connection_survives_is_given_up() {
    for resumed in [true, false] {
        let mut outbox = Outbox::default();
        let mut fate = queue(&mut outbox, "a", 1);
        for round in 1..=MOST_TRIES {
            assert_eq!(outbox.len(), 1, "{round}");
            if !resumed {
                outbox.forget_flights();
            } else if round > 1 {
                outbox.tried_again();
            }
            send(&mut outbox, 9);
            outbox.link_lost(&Arc::from("gone"));
        }
        assert!(matches!(fate.try_recv().unwrap(), Err(BrokerError::Failed(_))));
        assert_eq!((outbox.len(), outbox.bytes), (0, 0));
    }
}
