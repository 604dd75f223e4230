//! Nothing: the plugins of earlier versions are this crate's tests.
