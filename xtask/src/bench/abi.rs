//! `cargo xtask bench abi`: what the binary contract costs. The measuring is in `tests/abi_bench`, this sums it up.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use serde_json::Value;

use super::{Outcome, heading, say, succeed};
use crate::workspace;

/// Of a plugin that was built, in the name of what it was built from.
const SIZED: &str = "conductor_default";

pub(super) fn run() -> Outcome<ExitCode> {
    let target = workspace::target()?;
    let figures = target.join("bench-abi");
    say("building (release)…");
    succeed(workspace::cargo().args(["build", "--release", "-p", "conductor-abi-bench", "-p", "conductor-default"]))?;
    let loads = measure(&figures)?;

    heading("the binary contract");
    say(&format!("load average: {}", load_average()));
    let nanos = |name: &str| -> Outcome<f64> {
        let file = figures.join("abi").join(name).join("new/estimates.json");
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let estimates: Value = serde_json::from_str(&text)?;
        Ok(estimates["median"]["point_estimate"].as_f64().ok_or("an estimate without a median")?)
    };
    for (what, name) in [("without parameters", "count"), ("with parameters and a result in JSON", "add")] {
        let (direct, through) = (nanos(&format!("{name}_direct"))?, nanos(&format!("{name}_through_the_abi"))?);
        say(&format!("a request {what}: {through:.0} ns through the contract, {direct:.0} ns directly: {:.0} ns added", through - direct));
    }
    for (what, name) in [("publish, awaited", "call_publish"), ("now, with its JSON", "call_now")] {
        say(&format!("a call of the host ({what}): {:.0} ns", nanos(name)?));
    }
    let [least, median, most] = loads;
    say(&format!("loading a plugin: {median:.2} ms (from {least:.2} to {most:.2})"));
    let plugin = target.join("release").join(format!("{}{SIZED}.{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_EXTENSION));
    let stripped = match stripped(&plugin, &figures.join("stripped")) {
        Ok(bytes) => format!("{:.2} MB stripped", bytes as f64 / 1e6),
        Err(error) => format!("not stripped: {error}"),
    };
    say(&format!("size of {SIZED}: {:.2} MB as cargo leaves it, {stripped}", fs::metadata(&plugin)?.len() as f64 / 1e6));
    let front_page = fs::read_to_string(workspace::root().join("conductor-sdk/src/lib.rs"))?;
    say(&format!("lines of the plugin on the SDK's front page: {}", lines_of_plugin(&front_page).ok_or("there is none")?));
    Ok(ExitCode::SUCCESS)
}

/// Runs the measuring; the least, middle and largest time of a load, in milliseconds.
fn measure(figures: &Path) -> Outcome<[f64; 3]> {
    let mut command = workspace::cargo();
    command.args(["bench", "-p", "conductor-abi-bench", "--features", "measure", "--bench", "abi"]).env("CRITERION_HOME", figures);
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let mut loads = None;
    for line in BufReader::new(child.stderr.take().ok_or("no error stream")?).lines() {
        let line = line?;
        match line.strip_prefix("LOAD ") {
            Some(numbers) => loads = Some(numbers.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>()?),
            None => eprintln!("{line}"),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("the measuring ended with {status}").into());
    }
    Ok(loads.ok_or("nothing was said of loading")?.try_into().map_err(|_| "three numbers of loading were expected")?)
}

/// Bytes of the file without its symbols.
fn stripped(file: &Path, to: &Path) -> Outcome<u64> {
    let output = Command::new("strip").arg("-o").arg(to).arg(file).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(fs::metadata(to)?.len())
}

pub(super) fn load_average() -> String {
    fs::read_to_string("/proc/loadavg").map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// How many lines that are not blank the first whole plugin has that stands in a crate's documentation.
fn lines_of_plugin(documentation: &str) -> Option<usize> {
    let lines = documentation.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let text: Vec<&str> = lines.collect();
    let blocks = text.split(|line| line.starts_with("```")).skip(1).step_by(2);
    let mut plugins = blocks.filter(|block| block.iter().any(|line| line.starts_with("export_conductors!")));
    let plugin = plugins.next()?;
    Some(plugin.iter().filter(|line| !line.is_empty() && !line.starts_with("# ")).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_on_the_front_page_is_small() {
        let front_page = fs::read_to_string(workspace::root().join("conductor-sdk/src/lib.rs")).unwrap();
        let lines = lines_of_plugin(&front_page).expect("a whole plugin stands on the front page of the SDK");
        assert!((8..=20).contains(&lines), "{lines} lines that are not blank");
    }

    #[test]
    fn lines_of_the_first_whole_plugin_are_counted() {
        let page = "//! ```toml\n//! a = 1\n//! ```\n//! ```\n//! use x;\n//!\n//! export_conductors! { }\n//! # fn main() {}\n//! ```\n";
        assert_eq!(lines_of_plugin(page), Some(2));
        assert_eq!(lines_of_plugin("//! text\n"), None);
    }
}
