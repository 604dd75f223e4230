//! Holds that a plugin author finds what he needs in the documentation: every public item of the SDK has an example, and says its errors; what the
//! host calls, and what calls the host, says on which thread and in which order.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::workspace;

/// What is public for the macro alone, or cannot be named.
const HIDDEN: [(&str, &str); 3] = [("export.rs", ""), ("methods.rs", "pub trait Handler"), ("runtime.rs", "pub struct Surroundings")];

/// An item as it begins, with the documentation before it.
struct Item {
    place: String,
    /// Up to its body.
    signature: String,
    documentation: String,
}

fn items_of(file: &Path, name: &str) -> Vec<Item> {
    let text = fs::read_to_string(file).unwrap();
    let (mut items, mut documentation, mut in_trait) = (Vec::new(), String::new(), false);
    for (number, line) in text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]") {
        let bare = line.trim_start();
        if let Some(text) = bare.strip_prefix("///") {
            documentation += text;
            documentation.push('\n');
        } else if bare.starts_with("#[") {
            documentation += bare;
        } else {
            in_trait = (in_trait || line.starts_with("pub trait ") && !line.starts_with("pub trait Handler")) && line != "}";
            // Types within a module within a file are private.
            let (methods, types) =
                (["pub fn", "pub async fn", "pub const"], ["pub struct", "pub enum", "pub trait", "pub type", "macro_rules!"]);
            let public = methods.iter().any(|start| bare.starts_with(start)) || types.iter().any(|start| line.starts_with(start));
            let of_trait = ["fn ", "async fn ", "const ", "type "];
            // Deeper than an item of a trait is the body of a function.
            let in_trait = in_trait && line.starts_with("    ") && !line.starts_with("     ");
            if public || in_trait && of_trait.iter().any(|start| bare.starts_with(start)) {
                let mut ended = false;
                let lines = text.lines().skip(number).map(str::trim);
                let whole = lines.take_while(|line| !std::mem::replace(&mut ended, line.ends_with(['{', '}', ';'])));
                let signature = whole.collect::<Vec<_>>().join(" ");
                items.push(Item { place: format!("{name}:{}", number + 1), signature, documentation: std::mem::take(&mut documentation) });
            }
            documentation.clear();
        }
    }
    items
}

fn files() -> Vec<(PathBuf, String)> {
    let source = workspace::root().join("conductor-sdk/src");
    let mut files = Vec::new();
    for folder in [source.clone(), source.join("testing")] {
        for entry in fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with(".rs") && name != "tests.rs" {
                files.push((file, name));
            }
        }
    }
    files
}

fn public_items() -> Vec<Item> {
    files().iter().flat_map(|(file, name)| items_of(file, name)).collect()
}

/// What stands at the beginning of a line and goes on to a line `}`: `impl` blocks and traits, each as its first line and the rest.
fn blocks(text: &str) -> Vec<(&str, String)> {
    let begins = |line: &&str| line.starts_with("impl") || line.starts_with("pub trait ");
    let starts = text.lines().enumerate().filter(|(_, line)| begins(line));
    starts.map(|(at, first)| (first, text.lines().skip(at + 1).take_while(|line| *line != "}").collect::<Vec<_>>().join("\n"))).collect()
}

/// `Session` of `impl Session {`, `Save` of `impl<'a> IntoFuture for Save<'a> {`, `Service` of `pub trait Service: Send {`.
fn subject(first: &str) -> &str {
    let subject = first.rsplit_once(" for ").map_or_else(|| first.trim_start_matches("pub trait "), |(_, of)| of);
    let subject = subject.strip_prefix("impl").map_or(subject, |of| of.split_once(' ').map_or("", |(_, of)| of));
    subject.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
}

/// Types with functions that the host calls, or that call the host: traits of hooks, handles, what is sent by `.await`, the hands of a test.
fn crossing(texts: &[String]) -> BTreeSet<&str> {
    let crosses = |(first, body): &(&str, String)| {
        let hooks = first.starts_with("pub trait ") && body.contains("-> impl Future<");
        hooks
            || first.contains("IntoFuture for ")
            || ["    pub async fn ", "    pub fn start<", "    pub fn cancel("].iter().any(|call| body.contains(call))
    };
    texts.iter().flat_map(|text| blocks(text)).filter(crosses).map(|(first, _)| subject(first)).collect()
}

/// What follows the parameters, among which there may be functions with results of their own.
fn result_of(signature: &str) -> &str {
    let mut open = 0;
    let end = signature.find(|c| {
        open += i32::from(c == '(') - i32::from(c == ')');
        c == ')' && open == 0
    });
    end.map_or("", |end| &signature[end..])
}

#[test]
fn every_public_item_of_the_sdk_has_an_example_and_says_its_errors() {
    let items = public_items();
    assert!(items.len() > 100, "{} items", items.len());
    let mut lacking = Vec::new();
    for Item { place, signature, documentation } in items {
        let hidden = HIDDEN.iter().any(|(file, item)| place.starts_with(file) && signature.starts_with(item));
        if (hidden && !signature.starts_with("macro_rules!")) || documentation.contains("#[doc(hidden)]") {
            continue;
        }
        if !documentation.contains("```") {
            lacking.push(format!("{place}: {signature}: no example"));
        }
        let fails = signature.contains("fn ") && result_of(&signature).contains("Result<");
        if fails && !documentation.contains("# Errors") {
            lacking.push(format!("{place}: {signature}: which errors?"));
        }
    }
    assert!(lacking.is_empty(), "{}", lacking.join("\n"));
}

#[test]
fn what_the_host_calls_and_what_calls_it_says_thread_and_order() {
    let texts: Vec<String> = files().iter().map(|(file, _)| fs::read_to_string(file).unwrap()).collect();
    let crossing = crossing(&texts);
    let known = ["Conductor", "Host", "Publish", "Rig", "Save", "Service", "ServiceRig", "Session", "Task"];
    assert!(known.iter().all(|name| crossing.contains(name)), "{crossing:?}");
    let mut lacking = Vec::new();
    for Item { place, signature, documentation } in public_items() {
        let named = ["pub struct ", "pub trait "].iter().find_map(|kind| signature.strip_prefix(kind));
        let Some(name) = named.map(subject).filter(|name| crossing.contains(name)) else { continue };
        for word in ["thread", "order"] {
            if !documentation.contains(word) {
                lacking.push(format!("{place}: {name}: which {word}?"));
            }
        }
    }
    assert!(lacking.is_empty(), "{}", lacking.join("\n"));
    let front_page = fs::read_to_string(workspace::root().join("conductor-sdk/src/lib.rs")).unwrap();
    assert!(["//! - **Order.**", "//! - **Threads.**"].iter().all(|part| front_page.contains(part)));
}

#[test]
fn a_whole_plugin_is_short() {
    let front_page = fs::read_to_string(workspace::root().join("conductor-sdk/src/lib.rs")).unwrap();
    let lines = front_page.lines().map(|line| line.trim_start_matches("//!").trim());
    let code = lines.skip_while(|line| *line != "```").skip(1).take_while(|line| !line.starts_with("# "));
    assert!(code.filter(|line| !line.is_empty()).count() <= 20);
}
