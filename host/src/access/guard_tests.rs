use axum::{Router, body::Body, http::StatusCode, middleware, routing::get};
use futures_util::future;
use tower::ServiceExt as _;

use super::*;

/// Believes what a header of this name says of the role.
#[derive(Debug)]
struct Says(&'static str);

impl Authenticator for Says {
    fn authenticate<'a>(&'a self, shown: &'a Shown<'a>) -> BoxFuture<'a, Verdict> {
        let role = shown.headers.get(self.0).map(|role| Role::from_str(role.to_str().unwrap(), false));
        let verdict = match role {
            None => Verdict::Absent,
            Some(Ok(role)) => Verdict::Known(Identity { name: shown.peer.to_string(), role, method: self.0 }),
            Some(Err(reason)) => Verdict::Refused(reason),
        };
        Box::pin(future::ready(verdict))
    }
}

/// A port with these methods and two routes, of which the table knows one; both answer who asks.
fn port(methods: Vec<Box<dyn Authenticator>>) -> Router {
    let folder = tempfile::tempdir().unwrap();
    let tokens = BearerTokens::open(folder.path().join("none.json"), Clock::system()).unwrap();
    let access = Access { site: Site::new(&["127.0.0.1:1".parse().unwrap()], &[]), tokens, methods };
    async fn who(request: Request) -> String {
        request.extensions().get::<Identity>().map_or_else(String::new, |who| format!("{} {} {}", who.name, who.role.as_str(), who.method))
    }
    let routes =
        Router::new().route("/v1/sessions", get(who).post(who)).route("/livez", get(who)).route("/v1/forgotten", get(who).post(who));
    routes.layer(middleware::from_fn_with_state(Arc::new(access), guard))
}

async fn ask(port: &Router, method: &str, path: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let mut request = Request::builder().method(method).uri(path).extension(ConnectInfo("192.0.2.7:9".parse::<SocketAddr>().unwrap()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = port.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status();
    (status, String::from_utf8(axum::body::to_bytes(response.into_body(), 4096).await.unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn a_route_without_an_entry_is_closed_to_everybody() {
    for port in [port(Vec::new()), port(vec![Box::new(Says("a"))])] {
        for method in ["GET", "POST", "PUT"] {
            let (status, body) = ask(&port, method, "/v1/forgotten", &[("a", "admin")]).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method}: {body}");
        }
        assert_eq!(ask(&port, "GET", "/v1/sessions", &[("a", "admin")]).await.0, StatusCode::OK);
        assert_eq!(ask(&port, "PUT", "/v1/sessions", &[("a", "admin")]).await.0, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(ask(&port, "GET", "/v1/unheard-of", &[("a", "admin")]).await.0, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn the_first_method_that_was_shown_something_decides() {
    let port = port(vec![Box::new(Says("a")), Box::new(Says("b"))]);
    let get = async |headers: &[(&str, &str)]| ask(&port, "GET", "/v1/sessions", headers).await;
    assert_eq!(get(&[("b", "viewer")]).await, (StatusCode::OK, "192.0.2.7:9 viewer b".to_owned()));
    assert_eq!(get(&[("b", "viewer"), ("a", "admin")]).await.1, "192.0.2.7:9 admin a");
    let (status, body) = get(&[("a", "nonsense"), ("b", "admin")]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "one that is wrong is not passed over");
    assert!(!body.contains("nonsense"), "{body}");
    assert_eq!(get(&[("authorization", "Bearer cha_x"), ("a", "admin")]).await.0, StatusCode::UNAUTHORIZED, "tokens are the first method");
    assert_eq!(get(&[]).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&port, "POST", "/v1/sessions", &[("a", "viewer")]).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&port, "GET", "/livez", &[]).await, (StatusCode::OK, String::new()));
}

#[tokio::test]
async fn where_nothing_is_there_to_show_everybody_is_an_administrator_and_is_called_so() {
    assert_eq!(ask(&port(Vec::new()), "GET", "/v1/sessions", &[]).await, (StatusCode::OK, "anyone admin none".to_owned()));
}
