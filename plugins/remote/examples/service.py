"""A conductor behind the plugin `remote`: counts what devices say. `conduct` is all that is its own. Python 3.10 or later, nothing else.

    SERVICE_SECRET=swordfish python3 service.py [PORT [CERTIFICATE KEY]]
"""
import hmac, json, os, ssl, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def conduct(event):
    count = event["state"] or 0
    match event:
        case {"event": "joining", "client": "mallory"}:
            return {"join": {"refuse": "not you"}}
        case {"event": "joining", "client": client}:
            return {"join": {"subscribe": ["count", f"to/{client}/#"], "publish": ["say"]}}
        case {"event": "message", "name": "say", "client": client}:
            thanks = {"name": "thanks", "to": client, "payload": f"{count + 1} so far"}
            return {"save": count + 1, "publish": [{"name": "count", "payload": count + 1, "qos": 1, "retain": True}, thanks]}
        case {"event": "request", "method": "count"}:
            return {"reply": count}
        case {"event": "request", "method": "reset_in", "params": ms}:
            return {"timers": [{"name": "reset", "after_ms": ms}]}
        case {"event": "timer", "name": "reset"}:
            return {"save": 0, "publish": [{"name": "count", "payload": 0, "qos": 1, "retain": True}]}
        case {"event": "request"}:
            return {"unknown_method": True}
    return {}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        shown = self.headers.get("X-Conductor-Secret", "").encode()
        known = hmac.compare_digest(shown, os.environ["SERVICE_SECRET"].encode())
        answer = json.dumps(conduct(json.loads(body))).encode() if known else b""
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

if __name__ == "__main__":
    port, *files = sys.argv[1:] or ["8000"]
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    if files:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print("listening on", server.server_port, flush=True)
    server.serve_forever()
