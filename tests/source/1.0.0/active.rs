//! The conductor `active`: a loop that runs while it is started. Copy it where your conductor acts by itself.
#![forbid(unsafe_code)]

use std::time::Duration;

use conductor_sdk::prelude::*;

const PERIOD: Duration = Duration::from_secs(10);

struct Active {
    /// The loop, while there is one.
    running: Option<Task>,
}

impl Conductor for Active {
    type Config = ();
    const LAZY: bool = true;

    async fn create(_: &Session, (): ()) -> Result<Self> {
        Ok(Self { running: None })
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("state", Self::state).on("start", Self::start).on("stop", Self::stop).on("pause", Self::stop)
    }
}

impl Active {
    async fn state(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        Ok("State")
    }

    /// Started twice, it still has one loop.
    async fn start(&mut self, session: &Session, (): ()) -> Result<&'static str> {
        if self.running.is_none() {
            self.running = Some(session.spawn(wake_up(session.clone()))?);
        }
        Ok("Started")
    }

    /// `stop` and `pause`. What is not running stays so.
    async fn stop(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        if let Some(running) = self.running.take() {
            running.cancel();
        }
        Ok("Stopped")
    }
}

/// Ends when it is cancelled, or with its session.
async fn wake_up(session: Session) -> Result<()> {
    for round in 1_u64.. {
        session.sleep(PERIOD).await?;
        tracing::info!(round, "awake");
    }
    Ok(())
}

export_conductors! { "active" => Active }

#[cfg(test)]
mod tests {
    use super::*;
    use conductor_sdk::testing::Rig;

    #[test]
    fn the_loop_wakes_each_ten_seconds_while_started() {
        let mut rig = Rig::start::<Active>(()).unwrap();
        assert_eq!(rig.request("start", ()).unwrap(), "Started");
        rig.advance(Duration::from_secs(35));
        assert_eq!(rig.logged().len(), 3);
        assert_eq!(rig.request("pause", ()).unwrap(), "Stopped");
        rig.advance(Duration::from_secs(60));
        assert_eq!((rig.logged().len(), rig.tasks()), (0, 0));
    }

    #[test]
    fn starting_twice_keeps_one_loop_and_stopping_first_is_no_error() {
        let mut rig = Rig::start::<Active>(()).unwrap();
        assert_eq!(rig.request("stop", ()).unwrap(), "Stopped");
        for _ in 0..2 {
            assert_eq!(rig.request("start", ()).unwrap(), "Started");
        }
        assert_eq!(rig.tasks(), 1);
        assert_eq!(rig.request("state", ()).unwrap(), "State");
    }
}
