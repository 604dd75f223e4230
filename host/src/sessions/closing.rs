//! What a session that ends still owes to its conductor.

use std::sync::Arc;

use conductor_abi::wire::event;

use super::{Caller, Manager, Session, event::What, status::Status};

impl Manager {
    /// Makes the conductor of a session that is about to end, where an earlier one has saved something and the type has the hook `close`: what an
    /// author began outside of the host, and noted in the state, can be ended there only. Before the store forgets the session, and with it the
    /// state. One that was never made, or has saved nothing, has nothing to end: it is not made for that.
    pub(super) async fn restore_to_close(&self, session: &Arc<Session>, caller: &Caller) {
        let kind = session.kind().clone();
        if session.status() != Status::NotMade || !kind.wants(event::CLOSE) || kind.lane.quarantine().is_some() {
            return;
        }
        let saved = self.world().store.state(session.id()).await;
        if matches!(saved, Ok(None)) {
            return;
        }
        // One that is being made already is waited for.
        if let Err(error) = session.ask(What::Make(Some(caller.clone())), kind.deadline).await {
            tracing::warn!(session = %session.id(), %error, "the conductor could not be made again to be closed");
        }
    }
}
