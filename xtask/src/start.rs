//! `cargo xtask start`: from a fresh clone to a running host, with commands to try it.

use std::{
    fmt::Write as _,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    Outcome, say,
    workspace::{self, Built},
};

/// Types of `host.example.toml` and the packages that make their plugins.
const PLUGINS: [(&str, &str); 3] = [("default", "conductor-default"), ("active", "conductor-active"), ("quiz", "conductor-quiz")];
const HOST: &str = "conductor-host";
/// How often the ready file is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// Builds, runs, and ends as the host ends.
pub(crate) fn run(arguments: &[String]) -> Outcome {
    let arguments = arguments.strip_prefix(&["--".to_owned()]).unwrap_or(arguments);
    let Some(built) = build()? else { return Ok(ExitCode::FAILURE) };
    let ready = ReadyFile::new(&workspace::target()?)?;
    let mut command = Command::new(workspace::find(&built.programs, HOST)?);
    command.arg("serve").arg("--config").arg(workspace::root().join("host.example.toml")).arg("--ready-file").arg(&ready.0);
    for (name, package) in PLUGINS {
        let file = workspace::find(&built.libraries, &package.replace('-', "_"))?;
        let file = file.to_str().ok_or_else(|| format!("the path {} is not UTF-8", file.display()))?;
        command.args(["--set", &format!("types.{name}.plugin={file}")]);
    }
    // What the caller says comes last, and so it counts.
    command.args(arguments).stdin(Stdio::null());
    let status = supervise(command, &ready.0)?;
    Ok(exit_code(status))
}

/// Nothing where cargo has said what is wrong.
fn build() -> Result<Option<Built>, io::Error> {
    eprintln!("building host and plugins (release); the first time this takes some minutes");
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--message-format=json-render-diagnostics", "--package", HOST]);
    cargo.args(PLUGINS.iter().flat_map(|(_, package)| ["--package", package]));
    let output = cargo.stderr(Stdio::inherit()).output()?;
    Ok(output.status.success().then(|| Built::from_messages(&String::from_utf8_lossy(&output.stdout))))
}

/// Where the host writes its addresses; removed with the value.
struct ReadyFile(PathBuf);

impl ReadyFile {
    fn new(target: &Path) -> io::Result<Self> {
        let folder = target.join("xtask");
        fs::create_dir_all(&folder)?;
        let file = Self(folder.join(format!("ready-{}.json", std::process::id())));
        file.remove();
        Ok(file)
    }

    fn remove(&self) {
        // Most often there is none.
        let _ = fs::remove_file(&self.0);
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Runs the host until it ends, says what to try once it is ready, and passes signals on to it.
#[cfg(unix)]
fn supervise(mut command: Command, ready: &Path) -> Result<ExitStatus, Box<dyn std::error::Error>> {
    use std::os::unix::process::CommandExt as _;

    use signal_hook::{
        consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM},
        iterator::Signals,
    };

    let mut signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    // In a group of its own, so that Ctrl-C comes to it once, from here: the host takes a second signal as "at once".
    let mut host = Host(command.process_group(0).spawn()?);
    let mut is_ready = false;
    loop {
        let arrived: Vec<i32> = if is_ready { signals.wait().collect() } else { signals.pending().collect() };
        // A signal for its end may be missed when it comes with others; `try_wait` is asked each time.
        if let Some(status) = host.0.try_wait()? {
            if !is_ready {
                eprintln!("the host ended before it was ready ({status}); what it said is above");
            }
            return Ok(status);
        }
        for signal in arrived {
            match signal {
                SIGINT => host.signal(rustix::process::Signal::INT)?,
                SIGTERM | SIGHUP | SIGQUIT => host.signal(rustix::process::Signal::TERM)?,
                _ => {}
            }
        }
        if !is_ready {
            is_ready = announce(ready)?;
            if !is_ready {
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// Runs the host until it ends, and says what to try once it is ready. Ctrl-C comes to both.
#[cfg(not(unix))]
fn supervise(mut command: Command, ready: &Path) -> Result<ExitStatus, Box<dyn std::error::Error>> {
    let mut host = Host(command.spawn()?);
    loop {
        if let Some(status) = host.0.try_wait()? {
            eprintln!("the host ended before it was ready ({status}); what it said is above");
            return Ok(status);
        }
        if announce(ready)? {
            return Ok(host.0.wait()?);
        }
        std::thread::sleep(LOOK);
    }
}

/// The running host; killed if this program fails before it ends.
struct Host(Child);

impl Host {
    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) -> io::Result<()> {
        // Not waited for yet, so the id is still its own.
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        pid.map_or(Ok(()), |pid| rustix::process::kill_process(pid, signal).map_err(io::Error::from))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Ended already, unless an error came between.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    // Without a code a signal ended it.
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// False as long as the ready file is not there.
fn announce(ready: &Path) -> Result<bool, Box<dyn std::error::Error>> {
    let text = match fs::read(ready) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(format!("{}: {error}", ready.display()).into()),
    };
    let addresses: Value = serde_json::from_slice(&text)?;
    say(&tour(&addresses)?);
    Ok(true)
}

/// What to try on a host that listens there.
fn tour(addresses: &Value) -> Result<String, String> {
    let address = |name: &str| addresses[name].as_str().and_then(|text| text.parse().ok()).map(reachable);
    let admin = address("admin").ok_or("the ready file names no admin port")?;
    let iot = address("iot").ok_or("the ready file names no IoT port")?;
    let mqtt = address("mqtt");
    let shown = |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |address| address.to_string());
    let mut text = format!(
        "
The host is ready:

  admin port            http://{admin}  (trusted: create, close and ask sessions)
  IoT port              http://{iot}  (public: devices join)
  MQTT                  {}
  MQTT over WebSocket   {}  (path /mqtt, also on the IoT port)

Paste these into another terminal, one after the other. Needed: curl, mosquitto_sub and mosquitto_pub (package mosquitto-clients).

Create a session; you get its id and pin:

    field() {{ sed -E \"s/.*\\\"$1\\\": ?\\\"([^\\\"]*)\\\".*/\\1/\"; }}
    SESSION=$(curl -sS http://{admin}/v1/sessions -d '{{\"type\": \"default\"}}'); echo \"$SESSION\"
    ID=$(echo \"$SESSION\" | field id); PIN=$(echo \"$SESSION\" | field pin)

Join it as two devices; each gets a token:

    ALICE=$(curl -sS http://{iot}/v1/sessions/$ID/join -d \"{{\\\"pin\\\": \\\"$PIN\\\", \\\"client\\\": \\\"alice\\\"}}\"); echo \"$ALICE\"
    BOB=$(curl -sS http://{iot}/v1/sessions/$ID/join -d \"{{\\\"pin\\\": \\\"$PIN\\\", \\\"client\\\": \\\"bob\\\"}}\"); echo \"$BOB\"
",
        shown(mqtt),
        shown(address("mqtt_websocket")),
    );
    if let Some(mqtt) = mqtt {
        let client = |program: &str, variable: &str, name: &str| {
            let (host, port) = (mqtt.ip(), mqtt.port());
            format!(
                "{program} -h {host} -p {port} -i {name} -u \"$(echo \"${variable}\" | field username)\" -P \"$(echo \"${variable}\" | field token)\""
            )
        };
        let (subscribe, publish) = (client("mosquitto_sub", "ALICE", "alice"), client("mosquitto_pub", "BOB", "bob"));
        let _ = write!(
            text,
            "
Subscribe as alice, publish as bob; alice hears it:

    {subscribe} -t \"/$ID/#\" -v & sleep 1
    {publish} -t \"/$ID/chat\" -m \"hello from bob\"
"
        );
    }
    let stop = if mqtt.is_some() { "    kill $!\n" } else { "" };
    let _ = write!(
        text,
        "
Ask the session's conductor, then close the session; alice is disconnected, and would try again for ever:

    curl -sS http://{admin}/v1/sessions/$ID/requests -d '{{\"method\": \"state\"}}'; echo
    curl -sS -i -X DELETE http://{admin}/v1/sessions/$ID
{stop}
Ctrl-C or SIGTERM ends the host; its sessions are kept in the state folder.

"
    );
    Ok(text)
}

/// Where this machine reaches a listener: one on all addresses is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tour_names_addresses_that_can_be_reached() {
        let ready = json!({"admin": "127.0.0.1:50001", "iot": "0.0.0.0:8888", "mqtt": "[::]:1883", "mqtt_websocket": null});
        let text = tour(&ready).unwrap();
        for part in ["http://127.0.0.1:50001/v1/sessions -d", "http://127.0.0.1:8888/v1/sessions/$ID/join", "-h ::1 -p 1883", "off  (path"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn the_readme_tours_the_same_commands() {
        let ready = json!({"admin": "127.0.0.1:50001", "iot": "0.0.0.0:8888", "mqtt": "0.0.0.0:1883", "mqtt_websocket": "0.0.0.0:8083"});
        let readme = fs::read_to_string(workspace::root().join("README.md")).unwrap();
        for command in tour(&ready).unwrap().lines().filter_map(|line| line.strip_prefix("    ")) {
            assert!(readme.lines().any(|line| line == command), "README.md lacks: {command}");
        }
    }

    #[test]
    fn without_a_broker_nothing_is_said_about_subscribing() {
        let text = tour(&json!({"admin": "127.0.0.1:1", "iot": "127.0.0.1:2", "mqtt": null, "mqtt_websocket": null})).unwrap();
        assert!(text.contains("/requests") && !text.contains("mosquitto_sub -h"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn what_the_host_ends_with_is_passed_on() {
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(exit_code(ExitStatus::from_raw(2 << 8)), ExitCode::from(2));
        assert_eq!(exit_code(ExitStatus::from_raw(9)), ExitCode::FAILURE);
    }

    #[cfg(unix)]
    #[test]
    fn a_host_that_ends_before_it_is_ready_gives_its_status() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 3"]);
        assert_eq!(supervise(command, Path::new("/nowhere/ready.json")).unwrap().code(), Some(3));
    }
}
