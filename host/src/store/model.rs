//! A plain model of a store, which random changes are compared with.

use std::{collections::BTreeMap, sync::Arc};

use conductor_abi::wire::Grants;
use proptest::prelude::*;

use super::{
    Applied, Change, Extra, SavedState, StoreError, StoredClient, StoredSession, StoredTimer,
    contract::{create_at, expire, grant, id, join, labels, leave, limits, rules, save, timer},
};
use crate::sessions::SessionId;

/// A change to one of few sessions and clients, so that they meet.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Create(u8, u64),
    Close(u8),
    Join(u8, u8, u64, Option<u8>),
    Grant(u8, u8, u8),
    Rules(u8, Option<bool>, Option<u32>),
    Limits(u8, Option<Option<u64>>, Option<Option<u64>>),
    Labels(u8, u8),
    Timer(u8, u8, Option<StoredTimer>),
    Fired(u8, u8, StoredTimer, Option<StoredTimer>),
    Save(u8, u8),
    Expire(u8, u64),
    Leave(u8, u8),
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let (session, client, time, few) = (0..3_u8, 0..3_u8, 0..6_u64, 0..3_u8);
    let some_timer = (0..5_u64, prop::option::of(1..3_u64)).prop_map(|(due, every)| StoredTimer { due, every });
    let some_limit = prop::option::of(prop::option::of(0..2_u64));
    prop_oneof![
        6 => (session.clone(), time.clone()).prop_map(|(s, t)| Op::Create(s, t)),
        2 => session.clone().prop_map(Op::Close),
        8 => (session.clone(), client.clone(), time.clone(), prop::option::of(few.clone())).prop_map(|(s, c, t, g)| Op::Join(s, c, t, g)),
        2 => (session.clone(), client.clone(), few.clone()).prop_map(|(s, c, g)| Op::Grant(s, c, g)),
        1 => (session.clone(), any::<Option<bool>>(), prop::option::of(0..3_u32)).prop_map(|(s, l, m)| Op::Rules(s, l, m)),
        1 => (session.clone(), some_limit.clone(), some_limit).prop_map(|(s, l, e)| Op::Limits(s, l, e)),
        1 => (session.clone(), few.clone()).prop_map(|(s, l)| Op::Labels(s, l)),
        2 => (session.clone(), few.clone(), prop::option::of(some_timer.clone())).prop_map(|(s, n, t)| Op::Timer(s, n, t)),
        2 => (session.clone(), few, some_timer.clone(), prop::option::of(some_timer)).prop_map(|(s, n, t, next)| Op::Fired(s, n, t, next)),
        6 => (session.clone(), any::<u8>()).prop_map(|(s, v)| Op::Save(s, v)),
        4 => (session.clone(), time).prop_map(|(s, t)| Op::Expire(s, t)),
        4 => (session, client).prop_map(|(s, c)| Op::Leave(s, c)),
    ]
}

/// 0 is everything, as where nothing is said.
fn grants(which: u8) -> Grants {
    let mut grants = Grants::default();
    match which {
        0 => {}
        1 => grants.publish = Some(Vec::new()),
        _ => (grants.subscribe, grants.publish) = (Some(vec!["ä/+".into(), "#".into()]), Some(vec!["x".into()])),
    }
    grants
}

/// As many as `which`.
fn pairs(which: u8) -> BTreeMap<String, String> {
    (0..which).map(|n| (format!("label {n}"), which.to_string())).collect()
}

pub(super) fn state(which: u8) -> SavedState {
    SavedState { version: which.into(), bytes: vec![which; usize::from(which) * 7].into() }
}

impl Op {
    pub(super) fn session(&self) -> u8 {
        match self {
            Self::Create(s, _)
            | Self::Close(s)
            | Self::Join(s, ..)
            | Self::Grant(s, ..)
            | Self::Rules(s, ..)
            | Self::Limits(s, ..)
            | Self::Labels(s, _)
            | Self::Timer(s, ..)
            | Self::Fired(s, ..)
            | Self::Save(s, _)
            | Self::Expire(s, _)
            | Self::Leave(s, _) => *s,
        }
    }

    pub(super) fn change(&self) -> Change {
        let s = &self.session().to_string();
        match self {
            Self::Create(_, t) => create_at(s, *t),
            Self::Close(_) => Change::Close(id(s)),
            Self::Join(_, c, t, None) => join(s, &c.to_string(), *t),
            Self::Join(_, c, t, Some(g)) => {
                Change::Join { id: id(s), client_id: c.to_string().into(), expires_at: *t, grants: Some(grants(*g)) }
            }
            Self::Grant(_, c, g) => grant(s, &c.to_string(), grants(*g)),
            Self::Rules(_, l, m) => rules(s, *l, *m),
            Self::Limits(_, l, e) => limits(s, *l, *e),
            Self::Labels(_, l) => labels(s, pairs(*l)),
            Self::Timer(_, n, t) => timer(s, &n.to_string(), *t),
            Self::Fired(_, n, t, next) => Change::Fired { id: id(s), name: n.to_string().into(), timer: *t, next: *next },
            Self::Save(_, v) => save(s, state(*v)),
            Self::Expire(_, t) => expire(s, *t),
            Self::Leave(_, c) => leave(s, &c.to_string()),
        }
    }
}

pub(super) type Clients = Vec<(String, u64)>;

/// A session as the model sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) revision: u64,
    pub(super) clients: Clients,
    pub(super) extra: Extra,
}

impl Row {
    pub(super) fn of(session: &StoredSession) -> Self {
        let extra = session.extra.as_deref().cloned();
        assert_ne!(extra, Some(Extra::default()), "nothing is kept as something");
        Self { revision: session.revision, clients: names(session), extra: extra.unwrap_or_default() }
    }
}

pub(super) fn names(session: &StoredSession) -> Clients {
    let name = |client: &StoredClient| match client {
        StoredClient::Joined { client_id, expires_at } => (client_id.to_string(), *expires_at),
        StoredClient::Foreign(value) => (value.to_string(), 0),
    };
    session.clients.iter().map(name).collect()
}

/// The session after a change, or why not.
pub(super) type Seen = Result<Option<Row>, &'static str>;

/// Sessions with lists of pairs, edited in place.
#[derive(Default)]
pub(super) struct Model {
    rows: BTreeMap<u8, Row>,
    states: BTreeMap<u8, SavedState>,
    resting: BTreeMap<u8, u64>,
}

impl Model {
    pub(super) fn expect(&mut self, op: &Op) -> Seen {
        let s = op.session();
        if let Op::Create(_, t) = op {
            if self.rows.contains_key(&s) {
                return Err("exists");
            }
            if self.resting.get(&s).is_some_and(|until| until > t) {
                return Err("resting");
            }
            self.resting.retain(|_, until| *until > *t);
            self.rows.insert(s, Row::default());
        }
        let row = self.rows.get_mut(&s).ok_or("no such session")?;
        let before = row.clone();
        match op {
            Op::Create(..) => {}
            Op::Close(_) => {
                let until = row.clients.iter().map(|(_, expires_at)| *expires_at).max().unwrap_or(0).max(row.extra.tokens_until);
                self.rows.remove(&s);
                self.states.remove(&s);
                if until > 0 {
                    self.resting.insert(s, until);
                }
                return Ok(None);
            }
            Op::Join(_, c, t, g) => {
                let name = c.to_string();
                let new = !row.clients.iter().any(|(known, _)| *known == name);
                if new && row.extra.locked {
                    return Err("locked");
                }
                if new && row.extra.max_clients.is_some_and(|most| row.clients.len() >= most as usize) {
                    return Err("full");
                }
                match row.clients.iter().position(|(known, _)| *known == name) {
                    Some(at) => {
                        if row.clients[at].1 > *t {
                            row.extra.tokens_until = row.extra.tokens_until.max(row.clients[at].1);
                        }
                        row.clients[at].1 = *t;
                    }
                    None => row.clients.push((name.clone(), *t)),
                }
                if let Some(g) = g {
                    row.extra.grants.insert(name.into(), grants(*g));
                }
            }
            Op::Grant(_, c, g) => drop(row.extra.grants.insert(c.to_string().into(), grants(*g))),
            Op::Rules(_, l, m) => {
                row.extra.locked = l.unwrap_or(row.extra.locked);
                row.extra.max_clients = m.or(row.extra.max_clients);
            }
            Op::Limits(_, l, e) => {
                row.extra.lifetime = l.unwrap_or(row.extra.lifetime);
                row.extra.empty_timeout = e.unwrap_or(row.extra.empty_timeout);
            }
            Op::Labels(_, l) => row.extra.labels = pairs(*l),
            Op::Timer(_, n, t) => {
                row.extra.timers.retain(|name, _| **name != *n.to_string());
                row.extra.timers.extend(t.map(|t| (n.to_string().into(), t)));
            }
            Op::Fired(_, n, t, next) => {
                let before = row.extra.timers.len();
                row.extra.timers.retain(|name, set| **name != *n.to_string() || set != t);
                if row.extra.timers.len() < before {
                    row.extra.timers.extend(next.map(|next| (n.to_string().into(), next)));
                }
            }
            Op::Save(_, v) => drop(self.states.insert(s, state(*v))),
            Op::Expire(_, now) => {
                row.clients.retain(|(_, expires_at)| expires_at > now);
                if row.extra.tokens_until <= *now {
                    row.extra.tokens_until = 0;
                }
            }
            Op::Leave(_, c) => {
                let at = row.clients.iter().position(|(name, _)| *name == c.to_string()).ok_or("no such client")?;
                row.extra.tokens_until = row.extra.tokens_until.max(row.clients.remove(at).1);
            }
        }
        // Whatever was said of strangers, or says nothing.
        let Row { clients, extra, .. } = row;
        extra.grants.retain(|name, said| *said != Grants::default() && clients.iter().any(|(client, _)| **client == **name));
        row.revision += u64::from(*row != before);
        Ok(Some(row.clone()))
    }

    pub(super) fn reopen(&mut self) {
        self.rows.values_mut().for_each(|row| row.revision = 0);
    }

    pub(super) fn rows(&self) -> Vec<(String, Row)> {
        self.rows.iter().map(|(s, row)| (s.to_string(), row.clone())).collect()
    }

    pub(super) fn resting(&self) -> Vec<(SessionId, u64)> {
        self.resting.iter().map(|(s, until)| (id(&s.to_string()), *until)).collect()
    }

    pub(super) fn states(&self) -> Vec<Option<SavedState>> {
        (0..3).map(|s| self.states.get(&s).cloned()).collect()
    }
}

pub(super) fn seen(answer: &Applied) -> Seen {
    match answer {
        Ok(after) => Ok(after.as_deref().map(Row::of)),
        Err(StoreError::Exists(_)) => Err("exists"),
        Err(StoreError::NoSuchSession(_)) => Err("no such session"),
        Err(StoreError::Resting(_)) => Err("resting"),
        Err(StoreError::Locked(_)) => Err("locked"),
        Err(StoreError::Full(_)) => Err("full"),
        Err(StoreError::NoSuchClient(_)) => Err("no such client"),
        Err(StoreError::Write(_)) => Err("write"),
        Err(StoreError::State(..)) => Err("state"),
    }
}

pub(super) fn rows(sessions: &[Arc<StoredSession>]) -> Vec<(String, Row)> {
    sessions.iter().map(|session| (session.id.to_string(), Row::of(session))).collect()
}
