//! The requests that a conductor answers.

use std::{
    any::Any,
    fmt,
    future::{Future, ready},
};

use conductor_abi::{
    async_ffi::BorrowingFfiFuture,
    contract::Reply,
    wire::{MethodManifest, code},
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{Error, Result, Session, error::answer, guard};

/// The method that every conductor has, by which administrators ask for the others.
const REQUEST_API: &str = "request_api";

/// What calls the author's function, guarded.
type Call<C, H> = Box<dyn for<'a> Fn(&'a mut C, &'a H, &'a mut Option<Session>, &'a [u8]) -> BorrowingFfiFuture<'a, Reply> + Send + Sync>;
type Otherwise<C, H> =
    Box<dyn for<'a> Fn(&'a mut C, &'a H, &'a mut Option<Session>, Request) -> BorrowingFfiFuture<'a, Reply> + Send + Sync>;

/// A plain async method `async fn(&mut self, &Session, P) -> Result<R>` (a service's: with `&Host`): what [`Methods::on`] takes. Not to be named outside of
/// this crate.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no method of a conductor",
    label = "expected an `async fn(&mut self, &Session, P) -> Result<R>` whose future is `Send`"
)]
pub trait Handler<'a, C: 'a, H: 'a, P, R>: Send + Sync {
    /// What it returns.
    type Future: Future<Output = Result<R>> + Send + 'a;

    /// Calls it.
    fn call(&self, conductor: &'a mut C, handle: &'a H, params: P) -> Self::Future;
}

impl<'a, C, H, P, R, F, Fut> Handler<'a, C, H, P, R> for F
where
    C: 'a,
    H: 'a,
    F: Fn(&'a mut C, &'a H, P) -> Fut + Send + Sync,
    Fut: Future<Output = Result<R>> + Send + 'a,
{
    type Future = Fut;

    fn call(&self, conductor: &'a mut C, handle: &'a H, params: P) -> Fut {
        self(conductor, handle, params)
    }
}

/// The methods of a conductor (or, with [`Host`](crate::Host) in place of [`Session`], of a service) by name, with the JSON Schema of what they take and give.
///
/// Every conductor has one more, `request_api`, unless it defines that itself: it answers the names of all others and of their parameters, as in
/// `[{"method": "add", "params": ["by"]}, …]`, in the order they were added and of the fields. (`params` is empty where the parameters are no
/// struct.) The whole schemas are in the plugin's manifest, which `plugin inspect` and `GET /v1/types` show.
///
/// ```
/// # use conductor_sdk::prelude::*;
/// struct Counter(u64);
/// impl Counter {
///     async fn add(&mut self, _: &Session, by: u64) -> Result<u64> { self.0 += by; Ok(self.0) }
///     async fn reset(&mut self, _: &Session, _: ()) -> Result<()> { self.0 = 0; Ok(()) }
/// }
/// let methods = Methods::new().on("add", Counter::add).on("reset", Counter::reset);
/// assert_eq!(methods.names().collect::<Vec<_>>(), ["add", "reset"]);
/// ```
pub struct Methods<C, H = Session> {
    /// In the order they were added.
    all: Vec<Method<C, H>>,
    otherwise: Option<Otherwise<C, H>>,
}

/// As `request_api` answers it.
#[derive(Serialize)]
struct Description<'a> {
    method: &'a str,
    params: Vec<&'a str>,
}

impl<'a> Description<'a> {
    fn of(manifest: &'a MethodManifest) -> Self {
        let fields = manifest.params.as_ref().and_then(|schema| schema.get("properties")).and_then(Value::as_object);
        let params = fields.into_iter().flat_map(|fields| fields.keys().map(String::as_str)).collect();
        Self { method: &manifest.name, params }
    }
}

struct Method<C, H> {
    name: &'static str,
    call: Call<C, H>,
    manifest: MethodManifest,
}

impl<C: Send + 'static, H: Sync + 'static> Methods<C, H> {
    /// None yet.
    ///
    /// ```
    /// # struct Counter(u64);
    /// let none: conductor_sdk::Methods<Counter> = conductor_sdk::Methods::new();
    /// assert_eq!(none.names().count(), 0);
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self { all: Vec::new(), otherwise: None }
    }

    /// Adds a method. Its parameters and its result are JSON by their serde types. A method that takes `()` accepts and ignores any
    /// parameters. `method` is `async fn(&mut self, &Session, P) -> Result<R>`. Of two methods with one name the later counts.
    ///
    /// A request whose parameters do not fit is answered, without a call, with an error that names the place:
    /// `the parameters do not fit at "players[2].name": invalid type: integer `5`, expected a string`.
    ///
    /// ```
    /// # use conductor_sdk::prelude::*;
    /// #[derive(Deserialize, JsonSchema)]
    /// struct Move { x: i32, y: i32 }
    /// # struct Robot;
    /// impl Robot {
    ///     async fn go(&mut self, session: &Session, to: Move) -> Result<bool> {
    ///         session.publish("go", format!("{} {}", to.x, to.y)).await?;
    ///         Ok(true)
    ///     }
    /// }
    /// let methods = Methods::new().on("go", Robot::go);
    /// ```
    #[must_use]
    pub fn on<P, R, M>(mut self, name: &'static str, method: M) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        M: for<'a> Handler<'a, C, H, P, R> + Copy + 'static,
    {
        let call: Call<C, H> = Box::new(move |conductor, handle, session, body| {
            let call = async move {
                let params = parse::<P>(body, code::INVALID_PARAMS, "the parameters do not fit")?;
                to_result(&method.call(conductor, handle, params).await?)
            };
            answer(guard::run(session, call))
        });
        let mut manifest = MethodManifest::default();
        manifest.name = name.to_owned();
        manifest.params = Some(schemars::schema_for!(P).to_value());
        manifest.result = Some(schemars::schema_for!(R).to_value());
        let method = Method { name, call, manifest };
        match self.all.iter_mut().find(|other| other.name == name) {
            Some(earlier) => *earlier = method,
            None => self.all.push(method),
        }
        self
    }

    /// Answers all methods that were not added by name: for a conductor that does not know them when it is built, because a script or another
    /// program answers them. Each is asked for as a [`Request`]; the result may be any JSON, also a
    /// [`RawValue`](crate::serde_json::value::RawValue) that goes through as it is. `plugin inspect` and `GET /v1/types` say that
    /// there is such a handler, and `request_api` comes to it as well. Prefer [`on`](Self::on): it checks parameters and describes itself.
    ///
    /// ```
    /// # use conductor_sdk::{prelude::*, serde_json::Value, testing::Rig};
    /// # use std::collections::BTreeMap;
    /// struct Board(BTreeMap<String, Value>);
    /// impl Conductor for Board {
    ///     type Config = ();
    ///     async fn create(_: &Session, _: ()) -> Result<Self> { Ok(Board([("lamp".into(), true.into())].into())) }
    ///     fn methods() -> Methods<Self> { Methods::new().otherwise(Self::get) }
    /// }
    /// impl Board {
    ///     async fn get(&mut self, _: &Session, request: Request) -> Result<Value> {
    ///         self.0.get(request.method()).cloned().ok_or_else(|| request.unknown())
    ///     }
    /// }
    /// let mut rig = Rig::start::<Board>(()).unwrap();
    /// assert_eq!(rig.request("lamp", ()).unwrap(), true);
    /// assert!(rig.request("door", ()).unwrap_err().message().contains("no method"));
    /// ```
    #[must_use]
    pub fn otherwise<R, M>(mut self, handler: M) -> Self
    where
        R: Serialize + Send + 'static,
        M: for<'a> Handler<'a, C, H, Request, R> + Copy + 'static,
    {
        self.otherwise = Some(Box::new(move |conductor, handle, session, request| {
            answer(guard::run(session, async move { to_result(&handler.call(conductor, handle, request).await?) }))
        }));
        self
    }

    /// Their names, in the order they were added.
    ///
    /// ```
    /// # struct Counter(u64);
    /// # let methods: conductor_sdk::Methods<Counter> = conductor_sdk::Methods::new();
    /// assert!(methods.names().all(|name| !name.is_empty()));
    /// ```
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.all.iter().map(|method| method.name)
    }

    /// Answers a request; what the author wrote runs under `session`. One allocation for each: there are many of them.
    pub(crate) fn call<'a>(
        &'a self,
        conductor: &'a mut C,
        handle: &'a H,
        session: &'a mut Option<Session>,
        name: &'a str,
        body: &'a [u8],
    ) -> BorrowingFfiFuture<'a, Reply> {
        if let Some(method) = self.find(name) {
            return (method.call)(conductor, handle, session, body);
        }
        let result = match &self.otherwise {
            Some(handler) => match Request::new(name, body) {
                Ok(request) => return handler(conductor, handle, session, request),
                Err(error) => Err(error),
            },
            None if name == REQUEST_API => to_result(&self.descriptions()),
            None => {
                let known = self.names().collect::<Vec<_>>().join(", ");
                Err(Error::of(code::UNKNOWN_METHOD, format!("there is no method {name:?}; known are: {known}")))
            }
        };
        answer(ready(result))
    }

    /// By going through them: they are few, and mostly told apart by their length alone.
    fn find(&self, name: &str) -> Option<&Method<C, H>> {
        self.all.iter().find(|method| method.name == name)
    }

    pub(crate) fn has_others(&self) -> bool {
        self.otherwise.is_some()
    }

    fn descriptions(&self) -> Vec<Description<'_>> {
        self.all.iter().map(|method| Description::of(&method.manifest)).collect()
    }

    pub(crate) fn manifest(&self) -> Vec<MethodManifest> {
        self.all.iter().map(|method| method.manifest.clone()).collect()
    }
}

fn to_result(result: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(result).map_err(|e| Error::of(code::INTERNAL, format!("the result cannot be JSON: {e}")))
}

/// A request for a method that has no handler of its own; see [`Methods::otherwise`].
///
/// ```
/// # use conductor_sdk::prelude::*;
/// # struct Relay;
/// # impl Relay {
/// async fn any(&mut self, _: &Session, request: Request) -> Result<String> {
///     match request.method() {
///         "twice" => Ok(request.parse::<String>()?.repeat(2)),
///         _ => Err(request.unknown()),
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    method: String,
    params: Box<RawValue>,
}

impl Request {
    fn new(method: &str, body: &[u8]) -> Result<Self> {
        let text = if body.is_empty() { b"null" } else { body };
        let params =
            serde_json::from_slice(text).map_err(|e| Error::of(code::INVALID_PARAMS, format!("the parameters are not JSON: {e}")))?;
        Ok(Self { method: method.to_owned(), params })
    }

    /// The method's name, as it was asked for: any text.
    ///
    /// ```
    /// # fn f(request: &conductor_sdk::Request) -> bool { request.method() == "state" }
    /// ```
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Its parameters as JSON text, untouched; `null` where there are none.
    ///
    /// ```
    /// # fn f(request: &conductor_sdk::Request) -> usize { request.params().get().len() }
    /// ```
    #[must_use]
    pub fn params(&self) -> &RawValue {
        &self.params
    }

    /// Its parameters read as `T`; `()` takes any.
    ///
    /// # Errors
    /// Where they do not fit: the caller is told so, and what is wrong.
    ///
    /// ```
    /// # fn f(request: &conductor_sdk::Request) -> conductor_sdk::Result<u32> { request.parse() }
    /// ```
    pub fn parse<T: DeserializeOwned + 'static>(&self) -> Result<T> {
        parse(self.params.get().as_bytes(), code::INVALID_PARAMS, "the parameters do not fit")
    }

    /// What to answer where there is no such method after all.
    ///
    /// ```
    /// # fn f(request: &conductor_sdk::Request) -> conductor_sdk::Error { request.unknown() }
    /// ```
    #[must_use]
    pub fn unknown(&self) -> Error {
        Error::of(code::UNKNOWN_METHOD, format!("there is no method {:?}", self.method))
    }
}

/// JSON to `T`; for `()` whatever comes is accepted. No bytes at all mean null.
pub(crate) fn parse<T: DeserializeOwned + 'static>(body: &[u8], code: i32, what: &str) -> Result<T> {
    let mut nothing = Some(());
    if let Some(nothing) = (&mut nothing as &mut dyn Any).downcast_mut::<Option<T>>().and_then(Option::take) {
        return Ok(nothing);
    }
    let text = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(text).map_err(|error| Error::of(code, format!("{what}{}", misfit::<T>(text, &error))))
}

/// The place and the reason, to follow "does not fit". Read once more for it, since knowing the place takes time.
pub(crate) fn misfit<T: DeserializeOwned>(text: &[u8], error: &serde_json::Error) -> String {
    let again = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(text));
    // Characters behind the value are no matter of the type's.
    let Err(placed) = again else { return format!(": {error}") };
    let (path, error) = (placed.path().to_string(), placed.inner());
    let mut reason = error.to_string();
    if error.is_data() {
        // The place is told by names; lines and columns are those of a text that nobody wrote so.
        let end = format!(" at line {} column {}", error.line(), error.column());
        reason.truncate(reason.strip_suffix(&end).map_or(reason.len(), str::len));
    }
    if path == "." { format!(": {reason}") } else { format!(" at {path:?}: {reason}") }
}

impl<C: Send + 'static, H: Sync + 'static> Default for Methods<C, H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C, H> fmt::Debug for Methods<C, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Methods").field(&self.all.iter().map(|method| method.name).collect::<Vec<_>>()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only read from JSON")]
    struct Team {
        name: String,
        players: Vec<Player>,
        #[serde(default)]
        kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[expect(dead_code, reason = "only read from JSON")]
    struct Player {
        name: String,
        number: u8,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    enum Kind {
        Home,
        Away,
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place() {
        for (body, told) in [
            (
                r#"{"name": "a", "players": [{"name": "b", "number": 1}, {"name": 5}]}"#,
                r#" at "players[1].name": invalid type: integer `5`, expected a string"#,
            ),
            (r#"{"name": "a", "players": [{"name": "b"}]}"#, r#" at "players[0]": missing field `number`"#),
            (
                r#"{"name": "a", "players": [{"name": "b", "number": 256}]}"#,
                r#" at "players[0].number": invalid value: integer `256`, expected u8"#,
            ),
            (r#"{"name": "a", "players": [], "kind": "Hoem"}"#, r#" at "kind": unknown variant `Hoem`, expected `Home` or `Away`"#),
            (r#"{"players": []}"#, ": missing field `name`"),
            ("[1]", " at \"[0]\": invalid type: integer `1`, expected a string"),
            ("null", ": invalid type: null, expected struct Team"),
            (r#"{"name": "a", "players": []} x"#, ": trailing characters at line 1 column 30"),
            ("{\"name\": ", " at \"name\": EOF while parsing a value at line 1 column 9"),
        ] {
            let error = parse::<Team>(body.as_bytes(), code::INVALID_PARAMS, "the parameters do not fit").unwrap_err();
            assert_eq!(error.message(), format!("the parameters do not fit{told}"), "{body}");
        }
    }

    struct Game;
    impl Game {
        async fn enter(&mut self, _: &Session, _: Team) -> Result<()> {
            Ok(())
        }
        async fn add(&mut self, _: &Session, by: u64) -> Result<u64> {
            Ok(by)
        }
        async fn stop(&mut self, _: &Session, (): ()) -> Result<&'static str> {
            Ok("own")
        }
    }

    #[test]
    fn a_conductor_describes_itself() {
        // Of two with one name the later counts, in the place of the earlier.
        let methods = Methods::new().on("enter", Game::add).on("add", Game::add).on("enter", Game::enter).on("stop", Game::stop);
        let told = serde_json::to_string(&methods.descriptions()).unwrap();
        let expected =
            r#"[{"method":"enter","params":["name","players","kind"]},{"method":"add","params":[]},{"method":"stop","params":[]}]"#;
        assert_eq!(told, expected);
        assert!(methods.manifest().iter().all(|method| method.name != REQUEST_API));
    }
}
