//! What an old setting's value is, as far as it can be told without running anything.

use std::path::Path;

use super::{
    old::Old,
    python::{Assignment, Expression, Variable},
    report::Report,
};

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    /// Keys, and what stands behind each.
    Dictionary(Vec<(String, String)>),
    /// `None`, or an empty text.
    Empty,
    /// What the environment variable of this name says, which nobody knows here.
    Unknown(String),
    /// Something that only running it would tell.
    Unread,
}

impl Value {
    /// As a number; variables of the environment are texts.
    pub(super) fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// Why it is not what was wanted, without showing it.
    pub(super) fn problem(&self, wanted: &str) -> String {
        match self {
            Self::Unread => "it is not a plain value".into(),
            Self::Unknown(variable) => format!("it is the environment variable {variable}, which is not known here"),
            _ => format!("it is not {wanted}"),
        }
    }
}

/// The old settings, and which of them were asked for.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    file: String,
    assignments: &'a [Assignment],
    environment: Option<(String, &'a [Variable])>,
    asked: Vec<String>,
}

impl<'a> Settings<'a> {
    pub(super) fn new(old: &'a Old) -> Self {
        let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (file, assignments) = old.settings.as_ref().map_or((String::new(), &[][..]), |(file, list)| (name(file), list));
        let environment = old.environment.as_ref().map(|(file, list)| (name(file), list.as_slice()));
        Self { file, assignments, environment, asked: Vec::new() }
    }

    /// The value that holds in the end, and where it stands; nothing where it is set nowhere. What is set under a condition
    /// counts only where that is `if not NAME` and the name is empty; otherwise it is told that it was not followed.
    pub(super) fn get(&mut self, name: &str, report: &mut Report) -> Option<(String, Value)> {
        self.know(name);
        let (always, sometimes): (Vec<_>, Vec<_>) =
            self.assignments.iter().filter(|one| one.name == name).partition(|one| one.condition.is_none());
        let mut last = always.last().map(|one| (self.place(one.line), self.resolve(&one.value)));
        let if_empty = format!("if not {name}");
        for one in sometimes {
            if one.condition.as_deref() == Some(&if_empty) {
                if matches!(last, Some((_, Value::Empty))) {
                    last = Some((self.place(one.line), self.resolve(&one.value)));
                }
            } else {
                report.left.push(format!("{name} ({}): it is set there under a condition, which is not followed", self.place(one.line)));
            }
        }
        last
    }

    /// Says that the setting is dealt with elsewhere.
    pub(super) fn know(&mut self, name: &str) {
        self.asked.push(name.to_owned());
    }

    /// A variable of the environment file by itself.
    pub(super) fn variable(&mut self, name: &str) -> Option<(String, Value)> {
        self.know(name);
        let (file, list) = self.environment.as_ref()?;
        let (_, value, line) = list.iter().rev().find(|(found, ..)| found.eq_ignore_ascii_case(name))?;
        Some((format!("{file}:{line}"), text(value)))
    }

    fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.file)
    }

    fn resolve(&mut self, value: &Expression) -> Value {
        match value {
            Expression::Text(value) => text(value),
            Expression::Integer(number) => Value::Integer(*number),
            Expression::Bool(value) => Value::Bool(*value),
            Expression::None => Value::Empty,
            Expression::Dictionary(entries) => Value::Dictionary(entries.clone()),
            Expression::Unread => Value::Unread,
            Expression::Or(left, right) => match (self.resolve(left), self.resolve(right)) {
                (Value::Empty | Value::Unknown(_), right) => right,
                (left, _) => left,
            },
            Expression::Environment { name, default } => match self.variable(name) {
                Some((_, value)) => value,
                None => match self.resolve(default) {
                    Value::Empty => Value::Unknown(name.clone()),
                    default => default,
                },
            },
        }
    }

    /// Tells what is left of the settings: the known ones with their reasons, and those that nobody asked for.
    pub(super) fn left(&self, known: &[(&str, &str)], report: &mut Report) {
        let mut told = Vec::new();
        for one in self.assignments.iter().filter(|one| !self.asked.contains(&one.name)) {
            if told.contains(&&one.name) {
                continue;
            }
            told.push(&one.name);
            let reason =
                known.iter().find(|(name, _)| *name == one.name).map_or("conductor-host has no such setting", |(_, reason)| *reason);
            report.left.push(format!("{} ({}): {reason}", one.name, self.place(one.line)));
        }
    }

    /// The same for the environment file.
    pub(super) fn left_variables(&self, known: &[(&str, &str)], report: &mut Report) {
        let Some((file, list)) = &self.environment else { return };
        for (name, _, line) in list.iter().filter(|(name, ..)| !self.asked.iter().any(|asked| asked.eq_ignore_ascii_case(name))) {
            let reason = known
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
                .map_or("conductor-host has no such setting", |(_, reason)| *reason);
            report.left.push(format!("{} ({file}:{line}): {reason}", super::report::shown(name)));
        }
    }
}

fn text(value: &str) -> Value {
    if value.is_empty() { Value::Empty } else { Value::Text(value.to_owned()) }
}
