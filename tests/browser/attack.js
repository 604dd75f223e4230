// A page that an administrator looks at, and that knows where the admin port is. It tries all ways in which a page can send a request to another server, one
// after the other, and reports which one it tried and what it saw of the answer.
"use strict";

const report = (...what) => fetch("/report", { method: "POST", body: JSON.stringify(what) });

// An element that loads something: over when it has, or has failed to.
const load = (name, set) => new Promise((over) => {
    const element = document.createElement(name);
    element.onload = () => over("loaded");
    element.onerror = () => over("failed");
    set(element);
    document.body.append(element);
});

// What a form sends arrives in a frame, which tells its end.
const form = (method, action, fields) => load("iframe", (frame) => {
    frame.name = `frame${document.querySelectorAll("iframe").length}`;
    const element = document.createElement("form");
    Object.assign(element, { method, action, target: frame.name, enctype: "text/plain" });
    for (const [name, value] of Object.entries(fields)) {
        const input = document.createElement("input");
        Object.assign(input, { type: "hidden", name, value });
        element.append(input);
    }
    document.body.append(element);
    // Once the frame is in the page.
    queueMicrotask(() => element.submit());
});

const seen = (request) => request.then((answer) => `${answer.type} ${answer.status}`, () => "refused");

const ways = {
    "img": (to) => load("img", (element) => { element.src = `${to}/api/createSession?type=default`; }),
    "script": (to) => load("script", (element) => { element.src = `${to}/api/createSession?type=default`; }),
    "iframe": (to) => load("iframe", (element) => { element.src = `${to}/api/createSession?type=default`; }),
    "form get": (to) => form("get", `${to}/api/createSession`, { type: "default" }),
    // The body `{"type": "default", "x=": 1}`, as text.
    "form post": (to) => form("post", `${to}/v1/sessions`, { '{"type": "default", "x': '": 1}' }),
    "fetch get": (to) => seen(fetch(`${to}/api/createSession?type=default`, { mode: "no-cors" })),
    "fetch post": (to) => seen(fetch(`${to}/v1/sessions`, { mode: "no-cors", method: "POST", body: '{"type": "default"}' })),
    "fetch cors": (to) => seen(fetch(`${to}/v1/sessions`, {
        method: "POST", body: '{"type": "default"}', headers: { "Content-Type": "application/json" },
    })),
    "fetch delete": (to) => seen(fetch(`${to}/v1/sessions/000000`, { method: "DELETE" })),
    "beacon": async (to) => navigator.sendBeacon(`${to}/v1/sessions`, '{"type": "default"}'),
};

(async () => {
    const targets = await (await fetch("/cases")).json();
    for (const to of targets) {
        for (const [name, way] of Object.entries(ways)) {
            await report(to, name, await way(to));
        }
    }
    await report("over");
    // And the whole tab.
    location.href = `${targets[0]}/api/createSession?type=default`;
})();
