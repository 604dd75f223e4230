//! A message that somebody waits for: in the host nobody does, a measurement does.

use super::{Manager, event::What, manager::Refused};
use crate::broker::Message;

impl Manager {
    /// As [`Events::message`](crate::broker::Events::message), and resolves when the conductor has handled it.
    ///
    /// # Errors
    /// [`Refused::NoSuchSession`]; [`Refused::Conductor`].
    pub async fn hear(&self, message: Message) -> Result<(), Refused> {
        let session = self.get(message.session).ok_or(Refused::NoSuchSession)?;
        let timeout = session.kind().deadline;
        session.ask(What::Message(message), timeout).await?;
        Ok(())
    }
}
