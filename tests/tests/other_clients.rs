//! Clients that others wrote, beside the one that the tests use otherwise.
#![cfg(unix)]

use conductor_tests::{
    Host, HostOptions, Version, Way,
    mqtt::{EVERY_WAY, device, topic},
    tools::Program,
};
use serde_json::{Value, json};

fn host() -> Host {
    Host::start(HostOptions::default().plugin("echo", "conductor_test_echo"))
}

#[test]
fn mosquitto_and_this_client_understand_each_other() {
    let host = host();
    let session = host.create("echo");
    let (token_m, token_p) = (host.join(&session, "m"), host.join(&session, "p"));
    let port = host.mqtt.unwrap().port().to_string();
    let everything = topic(&session, "#");
    let common = |client: &'static str, token: &str, version: &str| -> Vec<String> {
        ["-h", "127.0.0.1", "-p", &port, "-i", client, "-u", &session.id, "-P", token, "-V", version].map(str::to_owned).to_vec()
    };
    for version in ["mqttv311", "mqttv5"] {
        let subscribe =
            [common("m", &token_m, version), ["-t", &everything, "-q", "2", "-d", "-F", "heard %t %p"].map(str::to_owned).to_vec()];
        let subscribe: Vec<String> = subscribe.concat();
        let listener = Program::mosquitto("mosquitto_sub", &subscribe.iter().map(String::as_str).collect::<Vec<_>>());
        listener.wait_for("Subscribed");
        let mut a = device(&host, &session, "a", Version::V5, Way::Tcp);
        assert!(a.subscribe(&everything, 2));
        for qos in ["0", "1", "2"] {
            let name = topic(&session, "x");
            let payload = format!("{version} {qos}");
            let publish = [common("p", &token_p, version), ["-t", &name, "-q", qos, "-m", &payload].map(str::to_owned).to_vec()].concat();
            let publisher = Program::mosquitto("mosquitto_pub", &publish.iter().map(String::as_str).collect::<Vec<_>>());
            let (code, lines) = publisher.end();
            assert_eq!(code, Some(0), "{lines:?}");
            assert_eq!(listener.wait_for("heard"), format!("heard {name} {payload}"));
            assert_eq!(a.heard(), (name, payload));
        }
        a.publish(&topic(&session, "y"), "from here", 2, false);
        listener.wait_for("from here");
        assert!(a.rest().len() <= 1);
    }
}

const PAHO: &str = r#"
import sys, json, paho.mqtt.client as mqtt
host, port, transport, version, client_id, username, token, session = sys.argv[1:9]
version = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, transport=transport, protocol=version)
if transport == "websockets":
    client.ws_set_options(path="/mqtt")
client.username_pw_set(username, token)
def say(*what): print(json.dumps(what), flush=True)
def connected(client, userdata, flags, reason, properties):
    say("connected", reason.is_failure)
    if not reason.is_failure:
        client.subscribe([(f"/{session}/#", 2), ("/#", 2)])
client.on_connect = connected
client.on_subscribe = lambda client, userdata, mid, reasons, properties: say("subscribed", [not r.is_failure for r in reasons])
client.on_message = lambda client, userdata, m: say("message", m.topic, m.payload.decode(), m.qos)
client.on_publish = lambda client, userdata, mid, reason, properties: say("published", reason.is_failure)
client.on_disconnect = lambda client, userdata, flags, reason, properties: (say("gone"), client.disconnect())
client.connect(host, int(port), 30)
client.loop_start()
for line in sys.stdin:
    topic, payload, qos = json.loads(line)
    client.publish(topic, payload, qos)
client.disconnect()
client.loop_stop()
"#;

#[test]
fn paho_and_this_client_understand_each_other() {
    let host = host();
    for (version, way) in EVERY_WAY {
        let session = host.create("echo");
        let token = host.join(&session, "python");
        let (address, transport) = match way {
            Way::Tcp => (host.mqtt.unwrap(), "tcp"),
            Way::WebSocket => (host.mqtt_websocket.unwrap(), "websockets"),
            Way::IotWebSocket => (host.iot, "websockets"),
            Way::Tls | Way::WebSocketTls | Way::IotWebSocketTls => unreachable!("the ways are those without TLS"),
        };
        let port = address.port().to_string();
        let number = if version == Version::V5 { "5" } else { "311" };
        let arguments = ["127.0.0.1", &port, transport, number, "python", &session.id, &token, &session.id];
        let mut python = Program::python(PAHO, &[("paho.mqtt.client", "paho-mqtt")], &arguments);
        assert_eq!(python.line(), r#"["connected", false]"#, "{version:?} {way:?}");
        assert_eq!(python.line(), r#"["subscribed", [true, false]]"#, "{version:?} {way:?}");
        let mut a = device(&host, &session, "a", version, way);
        assert!(a.subscribe(&topic(&session, "#"), 2));
        for qos in 0..=2_u8 {
            python.tell(&json!([topic(&session, "p"), format!("python {qos}"), qos]).to_string());
            assert_eq!(a.heard(), (topic(&session, "p"), format!("python {qos}")), "{version:?} {way:?}");
            python.wait_for("message");
            a.publish(&topic(&session, "a"), "hello", qos, false);
            let line: Value = serde_json::from_str(&python.wait_for("hello")).unwrap();
            assert_eq!(line, json!(["message", topic(&session, "a"), "hello", qos]));
            assert_eq!(a.heard().1, "hello");
        }
        host.close(&session);
        python.wait_for("gone");
    }
}
