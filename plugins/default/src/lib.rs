//! The conductor `default`: answers `state`, `start` and `stop`, and does nothing else. Copy it to begin your own.
#![forbid(unsafe_code)]

use conductor_sdk::prelude::*;

struct Default;

impl Conductor for Default {
    type Config = ();
    /// Nothing is started in `create`, so it can wait for the first request.
    const LAZY: bool = true;

    async fn create(_: &Session, (): ()) -> Result<Self> {
        Ok(Self)
    }

    fn methods() -> Methods<Self> {
        Methods::new().on("state", Self::state).on("start", Self::start).on("stop", Self::stop)
    }
}

impl Default {
    async fn state(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        Ok("State")
    }

    async fn start(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        Ok("Start")
    }

    async fn stop(&mut self, _: &Session, (): ()) -> Result<&'static str> {
        Ok("Stop")
    }
}

export_conductors! { "default" => Default }

#[cfg(test)]
mod tests {
    use super::*;
    use conductor_sdk::testing::Rig;

    #[test]
    fn it_answers_its_three_methods_whatever_the_parameters() {
        let mut rig = Rig::start::<Default>(()).unwrap();
        assert_eq!(rig.request("state", ()).unwrap(), "State");
        assert_eq!(rig.request("start", [1]).unwrap(), "Start");
        assert_eq!(rig.request("stop", "d").unwrap(), "Stop");
    }

    #[test]
    fn it_knows_no_other_method() {
        let error = Rig::start::<Default>(()).unwrap().request("pause", ()).unwrap_err();
        assert_eq!(error.message(), "there is no method \"pause\"; known are: state, start, stop");
    }
}
