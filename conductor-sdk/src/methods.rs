//! The requests that a conductor answers.

use std::{any::TypeId, collections::BTreeMap, fmt, future::Future, pin::Pin};

use conductor_abi::wire::{MethodManifest, code};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result, Session};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type Call<C, H> = Box<dyn for<'a> Fn(&'a mut C, &'a H, &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>> + Send + Sync>;

/// A plain async method `async fn(&mut self, &Session, P) -> Result<R>` (a service's: with `&Host`): what [`Methods::on`] takes. Not to be named outside of
/// this crate, so that other kinds of methods can come later.
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
    by_name: BTreeMap<&'static str, Method<C, H>>,
    order: Vec<&'static str>,
}

struct Method<C, H> {
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
        Self { by_name: BTreeMap::new(), order: Vec::new() }
    }

    /// Adds a method. Its parameters and its result are JSON by their serde types; a request whose parameters do not fit is
    /// answered with an error that names what is wrong, without a call. A method that takes `()` accepts and ignores any
    /// parameters. `method` is `async fn(&mut self, &Session, P) -> Result<R>`. Of two methods with one name the later counts.
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
        let call: Call<C, H> = Box::new(move |conductor, handle, body| {
            Box::pin(async move {
                let params = parse::<P>(body, code::INVALID_PARAMS, "the parameters do not fit")?;
                let result = method.call(conductor, handle, params).await?;
                serde_json::to_vec(&result).map_err(|e| Error::of(code::INTERNAL, format!("the result cannot be JSON: {e}")))
            })
        });
        let mut manifest = MethodManifest::default();
        manifest.name = name.to_owned();
        manifest.params = Some(schemars::schema_for!(P).to_value());
        manifest.result = Some(schemars::schema_for!(R).to_value());
        if self.by_name.insert(name, Method { call, manifest }).is_none() {
            self.order.push(name);
        }
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
        self.order.iter().copied()
    }

    pub(crate) async fn call<'a>(&'a self, conductor: &'a mut C, handle: &'a H, name: &'a str, body: &'a [u8]) -> Result<Vec<u8>> {
        match self.by_name.get(name) {
            Some(method) => (method.call)(conductor, handle, body).await,
            None => {
                let known = self.order.join(", ");
                Err(Error::of(code::UNKNOWN_METHOD, format!("there is no method {name:?}; known are: {known}")))
            }
        }
    }

    pub(crate) fn manifest(&self) -> Vec<MethodManifest> {
        self.order.iter().filter_map(|name| self.by_name.get(name)).map(|method| method.manifest.clone()).collect()
    }
}

/// JSON to `T`; for `()` whatever comes is accepted. No bytes at all mean null.
pub(crate) fn parse<T: DeserializeOwned + 'static>(body: &[u8], code: i32, what: &str) -> Result<T> {
    let ignored = TypeId::of::<T>() == TypeId::of::<()>();
    let text = if ignored || body.is_empty() { b"null" } else { body };
    serde_json::from_slice(text).map_err(|e| Error::of(code, format!("{what}: {e}")))
}

impl<C: Send + 'static, H: Sync + 'static> Default for Methods<C, H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C, H> fmt::Debug for Methods<C, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Methods").field(&self.order).finish()
    }
}
