//! The one table of the admin port's routes with the least role for each method.

use axum::http::Method;

use super::Role::{self, Admin, Operator, Viewer};

/// A route's path as the router has it, and what each of its methods needs: a role, or no identity at all.
pub type Route = (&'static str, &'static [(&'static str, Option<Role>)]);

/// All routes. One that is not here answers 403, whoever asks; a method that is not here answers 405.
pub const ROUTES: &[Route] = &[
    ("/livez", &[("GET", None)]),
    ("/readyz", &[("GET", None)]),
    ("/api/createSession", &[("GET", Some(Operator))]),
    ("/api/closeSession", &[("GET", Some(Operator))]),
    ("/api/conductorRequest", &[("GET", Some(Operator))]),
    ("/v1/sessions", &[("GET", Some(Viewer)), ("POST", Some(Operator))]),
    ("/v1/sessions/{id}", &[("GET", Some(Viewer)), ("PATCH", Some(Operator)), ("DELETE", Some(Operator))]),
    ("/v1/sessions/{id}/requests", &[("POST", Some(Operator))]),
    ("/v1/sessions/{id}/clients/{client}", &[("DELETE", Some(Operator))]),
    ("/v1/sessions/{id}/pin/open", &[("POST", Some(Operator))]),
    ("/v1/sessions/{id}/pin/rotate", &[("POST", Some(Operator))]),
    ("/v1/sessions/{id}/move", &[("POST", Some(Admin))]),
    ("/v1/types", &[("GET", Some(Viewer))]),
    ("/v1/types/{name}", &[("GET", Some(Viewer))]),
    ("/v1/services", &[("GET", Some(Viewer))]),
    ("/v1/services/{name}/requests", &[("POST", Some(Operator))]),
    ("/v1/plugins", &[("GET", Some(Viewer))]),
    ("/v1/plugins/reload", &[("POST", Some(Admin))]),
    ("/v1/metrics", &[("GET", Some(Viewer))]),
];

/// What a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Least {
    /// No identity.
    Nobody,
    /// An identity of this role at least.
    Role(Role),
    /// The route knows these methods, and not the request's.
    OtherMethods(String),
    /// The route has no entry.
    NoEntry,
}

/// What the table says of a method of a route.
pub(super) fn least(path: &str, method: &str) -> Least {
    let Some((_, methods)) = ROUTES.iter().find(|(known, _)| *known == path) else { return Least::NoEntry };
    match methods.iter().find(|(known, _)| *known == method) {
        Some((_, Some(role))) => Least::Role(*role),
        Some((_, None)) => Least::Nobody,
        None => Least::OtherMethods(methods.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ")),
    }
}

/// Whether a request may change something: all but a GET may, and so may the GETs of the replaced system.
pub(super) fn may_change(path: Option<&str>, method: &Method) -> bool {
    method != Method::GET || path.is_none_or(|path| path.starts_with("/api/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::admin;

    /// The paths of the real router, which tells them in its `Debug` form alone.
    fn real_paths() -> Vec<String> {
        let shown = format!("{:?}", admin::routes());
        let paths: Vec<String> = shown
            .split('"')
            .filter(|text| text.len() > 1 && text.starts_with('/') && !text.contains("__private"))
            .map(str::to_owned)
            .collect();
        assert!(paths.len() >= 17, "{shown}");
        paths
    }

    #[test]
    fn each_real_route_has_an_entry_and_each_entry_a_real_route() {
        let real = real_paths();
        for path in &real {
            assert_ne!(least(path, "GET"), Least::NoEntry, "{path} has no entry in the table of roles");
        }
        for (path, methods) in ROUTES {
            assert!(real.iter().any(|known| known == path), "{path} is no route");
            assert!(!methods.is_empty(), "{path}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_needs_what_nobody_has() {
        assert_eq!(least("/v1/unheard-of", "GET"), Least::NoEntry);
        assert_eq!(least("/v1/sessions/", "GET"), Least::NoEntry);
        assert_eq!(least("/v1/sessions/{id}", "PUT"), Least::OtherMethods("GET, PATCH, DELETE".to_owned()));
        assert_eq!(least("/v1/sessions", "get"), Least::OtherMethods("GET, POST".to_owned()));
    }

    #[test]
    fn only_a_get_of_v1_changes_nothing() {
        assert!(!may_change(Some("/v1/sessions"), &Method::GET));
        assert!(!may_change(Some("/v1/sessions/{id}"), &Method::GET));
        for method in [Method::POST, Method::DELETE, Method::PATCH, Method::PUT, Method::HEAD, Method::OPTIONS] {
            assert!(may_change(Some("/v1/sessions"), &method), "{method}");
        }
        assert!(may_change(Some("/api/createSession"), &Method::GET) && may_change(None, &Method::GET));
    }
}
