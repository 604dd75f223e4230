//! The measure for `cargo xtask bench`: one axum route that answers what the conductor `default` answers, and nothing behind it.
//! Prints its address and serves until it is killed.

use axum::{Router, http::header, routing::get};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    #[expect(clippy::print_stdout, reason = "the caller reads the address from there")]
    {
        println!("{}", listener.local_addr()?);
    }
    let answer = || async { ([(header::CONTENT_TYPE, "application/json")], "\"State\"") };
    axum::serve(listener, Router::new().route("/api/conductorRequest", get(answer))).await
}
