"""A device with the habits of existing ones: joins by /api/joinSession, then speaks MQTT 3.1.1.

The argument is a JSON object:
  join       the URL to post to
  host, port where MQTT is
  session, pin, client
  websocket  whether MQTT is in WebSocket; the path is the library's default, /mqtt
  tls        whether both go over TLS; the authorities are those that Python trusts (SSL_CERT_FILE)
  tls_1_2    whether TLS ends at version 1.2
  client_id, username
             what MQTT is told: "client" or "session" for the value of that name, and else the text itself
  qos        of each subscription and message
Says what happens, and takes orders, both in JSON, one a line: ["subscribe", NAME], ["publish", NAME, PAYLOAD], ["end"].
"""

import importlib
import json
import ssl
import sys
import urllib.error
import urllib.request

import paho.mqtt.client as mqtt

told = json.loads(sys.argv[1])
session, qos = told["session"], told["qos"]


def say(*what):
    print(json.dumps(what, ensure_ascii=False), flush=True)


def value(key):
    return told.get(told[key], told[key])


def join():
    body = json.dumps({"id": session, "pin": told["pin"], "client": told["client"]}).encode()
    request = urllib.request.Request(told["join"], body, {"Content-Type": "application/json"})
    # Whatever the status is, only the body counts.
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    return json.load(answer)["token"]


def connected(client, userdata, flags, code):
    say("connected", code)


def message(client, userdata, message):
    # The name of a message is what is between the second slash and the third.
    say("message", message.topic.split("/")[2], message.payload.decode(), message.qos)


# As before there were versions of the callbacks: 2.x takes that for its first version, and warns.
client = mqtt.Client(client_id=value("client_id"), transport="websockets" if told["websocket"] else "tcp")
if told["tls_1_2"]:
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client.tls_set_context(context)
elif told["tls"]:
    client.tls_set()
client.on_connect = connected
client.on_message = message
client.on_subscribe = lambda client, userdata, number, granted: say("subscribed", list(granted))
client.on_publish = lambda client, userdata, number: say("published")

token = join()
say("joined", importlib.import_module("paho.mqtt").__version__)
client.username_pw_set(username=value("username"), password=token)
client.connect(told["host"], told["port"])
client.loop_start()
for line in sys.stdin:
    order, *values = json.loads(line)
    if order == "subscribe":
        client.subscribe(f"/{session}/{values[0]}", qos)
    elif order == "publish":
        client.publish(f"/{session}/{values[0]}", values[1], qos)
    else:
        break
client.disconnect()
client.loop_stop()
