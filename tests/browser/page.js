// Devices in a browser, one after the other, as the test lists them at /cases: each joins by fetch, connects by WebSocket over TLS, subscribes to all
// of its session, says something, and waits for that and for what another device says. What happens is reported to the test.
"use strict";

const report = (...what) => fetch("/report", { method: "POST", body: JSON.stringify(what) });

async function join({ join, session, pin, client }) {
    const answer = await fetch(join, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ id: session, pin, client }),
    });
    return (await answer.json()).token;
}

// Each takes what to do with a message, and gives what publishes and what ends, once it has subscribed.
const libraries = {
    "mqtt.js": ({ host, port, session, client }, token, heard) => new Promise((resolve, reject) => {
        const connection = mqtt.connect(`wss://${host}:${port}/mqtt`, {
            clientId: client, username: client, password: token, protocolVersion: 4, reconnectPeriod: 0,
        });
        connection.on("error", reject);
        connection.on("close", () => reject(new Error("the connection was closed")));
        connection.on("message", (topic, payload) => heard(topic, payload.toString()));
        connection.on("connect", () => connection.subscribe(`/${session}/#`, (error) => {
            const publish = (name, payload) => connection.publish(`/${session}/${name}`, payload);
            error ? reject(error) : resolve({ publish, end: () => connection.end() });
        }));
    }),
    // Host, port and client id alone: the path is the library's default.
    paho: ({ host, port, session, client }, token, heard) => new Promise((resolve, reject) => {
        const connection = new Paho.Client(host, port, client);
        const failed = (what) => reject(new Error(what.errorMessage));
        connection.onMessageArrived = (message) => heard(message.destinationName, message.payloadString);
        connection.onConnectionLost = failed;
        const publish = (name, payload) => connection.send(`/${session}/${name}`, payload);
        const subscribed = () => resolve({ publish, end: () => connection.disconnect() });
        const connected = () => connection.subscribe(`/${session}/#`, { onSuccess: subscribed, onFailure: failed });
        connection.connect({ userName: client, password: token, useSSL: true, onSuccess: connected, onFailure: failed });
    }),
};

async function run(device) {
    const token = await join(device);
    await report("joined", token.split(".").length);
    const all = [];
    let enough;
    const both = new Promise((resolve) => { enough = resolve; });
    const heard = (topic, payload) => all.push([topic, payload]) === 2 && enough();
    const connection = await libraries[device.library](device, token, heard);
    await report("subscribed");
    connection.publish("own", "from the page, ünïcode");
    await both;
    await report("heard", ...all.sort());
    connection.end();
}

(async () => {
    try {
        for (const device of await (await fetch("/cases")).json()) {
            await run(device);
        }
        await report("done");
    } catch (error) {
        await report("failed", String(error));
    }
})();
