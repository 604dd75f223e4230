//! Reads what a Python settings module assigns, without running it: names in upper case, and values that are plain to see.
//!
//! Understood are texts, whole numbers, `True`, `False`, `None`, the keys of a dictionary, a look into the environment
//! (`os.environ.get("NAME", default)` and its kin), `int(…)` and `str(…)` around these, and `a or b`. Everything else is kept as
//! [`Expression::Unread`], so that whoever asks for the name hears that it is there.

use std::{iter::Peekable, str::Chars};

/// What stands on the right of an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// `"text"`
    Text(String),
    /// `8888`
    Integer(i64),
    /// `True`
    Bool(bool),
    /// `None`
    None,
    /// `{"key": …}`: its keys, and what stands behind each.
    Dictionary(Vec<(String, String)>),
    /// `os.environ.get("NAME", default)`
    Environment { name: String, default: Box<Expression> },
    /// `a or b`
    Or(Box<Expression>, Box<Expression>),
    /// Anything else.
    Unread,
}

/// One assignment to a name in upper case, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) name: String,
    /// Counted from 1.
    pub(super) line: usize,
    /// The head of the innermost block that it is in, as in `if not JWT_MODE`; nothing where it always holds.
    pub(super) condition: Option<String>,
    pub(super) value: Expression,
}

/// All assignments to names in upper case.
pub(super) fn assignments(text: &str) -> Vec<Assignment> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut found = Vec::new();
    for Line { number, indent, text } in lines(text) {
        blocks.retain(|(outer, _)| *outer < indent);
        if let Some(head) = text.strip_suffix(':') {
            blocks.push((indent, head.split_whitespace().collect::<Vec<_>>().join(" ")));
            continue;
        }
        let Some((left, right)) = split_assignment(&text) else { continue };
        let condition = blocks.last().map(|(_, head)| head.clone());
        let plain = left.split_once(':').map_or(left, |(name, _)| name).trim();
        if is_setting(plain) {
            found.push(Assignment { name: plain.into(), line: number, condition, value: expression(right) });
        } else {
            // Several at once, or one with an operator.
            let names = left.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|name| is_setting(name));
            found.extend(names.map(|name| Assignment {
                name: name.into(),
                line: number,
                condition: condition.clone(),
                value: Expression::Unread,
            }));
        }
    }
    found
}

/// The value of a keyword argument, `name=…`, of the first call in the text that has it, with its line.
pub(super) fn keyword(text: &str, name: &str) -> Option<(usize, Expression)> {
    lines(text).into_iter().find_map(|line| {
        let mut depth = 0_usize;
        let mut word = String::new();
        let mut rest = line.text.as_str();
        while let Some((token, after)) = next_token(rest) {
            match token {
                "(" => depth += 1,
                ")" => depth = depth.saturating_sub(1),
                "=" if depth > 0 && word == name => {
                    return Some((line.number, expression(argument(after))));
                }
                _ => {}
            }
            if !token.trim().is_empty() {
                word = token.to_owned();
            }
            rest = after;
        }
        None
    })
}

fn is_setting(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// One logical line: comments taken off, brackets and continuations joined.
struct Line {
    number: usize,
    indent: usize,
    text: String,
}

fn lines(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut rest = text.trim_start_matches('\u{feff}');
    let (mut number, mut depth) = (1, 0_usize);
    let mut line: Option<Line> = None;
    let mut indent = 0;
    while let Some((token, after)) = next_token(rest) {
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        match token {
            "\n" if depth == 0 => {
                lines.extend(line.take());
                indent = 0;
            }
            " " | "\t" | "\r" | "\n" | "\\\n" | "\\\r\n" => match &mut line {
                Some(line) => line.text.push(' '),
                // As Python counts.
                None => indent = if token == "\t" { (indent / 8 + 1) * 8 } else { indent + 1 },
            },
            comment if comment.starts_with('#') => {}
            token => line.get_or_insert_with(|| Line { number, indent, text: String::new() }).text.push_str(token),
        }
        number += token.matches('\n').count();
        rest = after;
    }
    lines.extend(line);
    for line in &mut lines {
        line.text.truncate(line.text.trim_end().len());
    }
    lines
}

/// The next piece: a text with its quotes, a word, a comment, or one character. Nothing at the end.
fn next_token(text: &str) -> Option<(&str, &str)> {
    let first = text.chars().next()?;
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let length = match first {
        '"' | '\'' => text_length(text, first),
        '#' => text.find('\n').unwrap_or(text.len()),
        '\\' if text[1..].starts_with("\r\n") => 3,
        '\\' if text[1..].starts_with('\n') => 2,
        first if word(first) => text.find(|c| !word(c)).unwrap_or(text.len()),
        first => first.len_utf8(),
    };
    Some(text.split_at(length))
}

/// How long the quoted text is that begins here, to the end where it is not closed.
fn text_length(text: &str, quote: char) -> usize {
    let triple = [quote; 3].iter().collect::<String>();
    let (open, close, one_line) = if text.starts_with(&triple) { (3, triple, false) } else { (1, quote.to_string(), true) };
    let mut at = open;
    while let Some(next) = text[at..].chars().next() {
        match next {
            '\\' => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
            '\n' if one_line => return at,
            _ if text[at..].starts_with(&close) => return at + close.len(),
            _ => at += next.len_utf8(),
        }
    }
    text.len()
}

/// Both sides of the last `=` outside of brackets that assigns; the left one loses the operator of `+=` to the name's neighbours.
fn split_assignment(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut last) = (0_usize, None);
    let (mut before, mut rest) = ("", text);
    while let Some((token, after)) = next_token(rest) {
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "=" if depth == 0 && after.starts_with('=') => {
                // A comparison: both characters are behind us.
                (before, rest) = ("=", &after[1..]);
                continue;
            }
            "=" if depth == 0 && !matches!(before, "!" | "<" | ">") => last = Some(text.len() - rest.len()),
            _ => {}
        }
        (before, rest) = (token, after);
    }
    last.map(|at| (text[..at].trim(), text[at + 1..].trim()))
}

/// The text up to the comma or bracket that ends an argument.
fn argument(text: &str) -> &str {
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some((token, after)) = next_token(rest) {
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" | "," if depth == 0 => return &text[..text.len() - rest.len()],
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        rest = after;
    }
    text
}

/// What is inside of `open`…`close`, if that is all of the text.
fn inside<'a>(text: &'a str, open: &str, close: char) -> Option<&'a str> {
    let inner = text.trim().strip_prefix(open)?;
    let first = argument_list_end(inner)?;
    (inner[first..] == *close.to_string()).then(|| inner[..first].trim())
}

/// Where the bracket stands that closes one opened before the text.
fn argument_list_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some((token, after)) = next_token(rest) {
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return Some(text.len() - rest.len()),
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        rest = after;
    }
    None
}

/// The parts of a list, separated by commas outside of brackets; a comma at the end ends nothing.
fn parts(mut text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while !text.trim().is_empty() {
        let part = argument(text);
        parts.push(part.trim());
        text = text[part.len()..].get(1..).unwrap_or("");
    }
    parts
}

fn expression(text: &str) -> Expression {
    let text = text.trim();
    if let Some((left, right)) = split_or(text) {
        return Expression::Or(Box::new(expression(left)), Box::new(expression(right)));
    }
    match text {
        "True" => return Expression::Bool(true),
        "False" => return Expression::Bool(false),
        "None" => return Expression::None,
        _ => {}
    }
    if let Some(inner) = inside(text, "(", ')').filter(|inner| parts(inner).len() == 1 && !inner.ends_with(',')) {
        return expression(inner);
    }
    if let Some(inner) = inside(text, "{", '}') {
        return dictionary(inner);
    }
    for call in ["os.environ.get(", "environ.get(", "os.getenv(", "getenv("] {
        if let Some(inner) = inside(text, call, ')') {
            return environment(&parts(inner));
        }
    }
    for lookup in ["os.environ[", "environ["] {
        if let Some(inner) = inside(text, lookup, ']') {
            return environment(&[inner]);
        }
    }
    if let Some(inner) = inside(text, "int(", ')') {
        return to_integer(expression(inner));
    }
    if let Some(inner) = inside(text, "str(", ')') {
        return match expression(inner) {
            Expression::Integer(number) => Expression::Text(number.to_string()),
            text @ (Expression::Text(_) | Expression::Environment { .. }) => text,
            _ => Expression::Unread,
        };
    }
    if let Some(text) = literal(text) {
        return Expression::Text(text);
    }
    text.replace('_', "").parse().map_or(Expression::Unread, Expression::Integer)
}

/// Both sides of the first ` or ` outside of brackets and quotes.
fn split_or(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut rest) = (0_usize, text);
    while let Some((token, after)) = next_token(rest) {
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "or" if depth == 0 => return Some((&text[..text.len() - rest.len()], after)),
            // These bind otherwise than `or` does.
            "if" | "else" | "lambda" if depth == 0 => return None,
            _ => {}
        }
        rest = after;
    }
    None
}

fn environment(arguments: &[&str]) -> Expression {
    let default = arguments.get(1).map_or(Expression::None, |text| expression(text));
    match arguments.first().and_then(|text| literal(text)) {
        Some(name) if arguments.len() <= 2 => Expression::Environment { name, default: Box::new(default) },
        _ => Expression::Unread,
    }
}

fn to_integer(value: Expression) -> Expression {
    match value {
        Expression::Text(text) => text.trim().parse().map_or(Expression::Unread, Expression::Integer),
        number @ (Expression::Integer(_) | Expression::Environment { .. }) => number,
        _ => Expression::Unread,
    }
}

fn dictionary(inner: &str) -> Expression {
    let entry = |part: &str| -> Option<(String, String)> {
        let (key, after) = next_token(part)?;
        Some((literal(key)?, after.trim_start().strip_prefix(':')?.trim().to_owned()))
    };
    parts(inner).into_iter().map(entry).collect::<Option<Vec<_>>>().map_or(Expression::Unread, Expression::Dictionary)
}

/// The text that a single literal stands for.
fn literal(text: &str) -> Option<String> {
    let text = text.trim();
    let (raw, quoted) = match text.strip_prefix(['r', 'R']) {
        Some(quoted) => (true, quoted),
        None => (false, text.strip_prefix(['u', 'U']).unwrap_or(text)),
    };
    let quote = quoted.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let width = if quoted.starts_with(&[quote; 3].iter().collect::<String>()) { 3 } else { 1 };
    let closed = quoted.len() >= 2 * width && quoted.ends_with(&quoted[..width]);
    if !closed || text_length(quoted, quote) != quoted.len() {
        return None;
    }
    let content = &quoted[width..quoted.len() - width];
    if raw { Some(content.to_owned()) } else { unescape(content) }
}

/// Nothing for an escape that is rare in settings: better unread than wrong.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match rest.next()? {
            same @ ('\\' | '\'' | '"') => plain.push(same),
            'n' => plain.push('\n'),
            't' => plain.push('\t'),
            '\n' => {}
            'u' => plain.push(hexadecimal(&mut rest, 4)?),
            'x' => plain.push(hexadecimal(&mut rest, 2)?),
            _ => return None,
        }
    }
    Some(plain)
}

fn hexadecimal(rest: &mut Peekable<Chars<'_>>, digits: usize) -> Option<char> {
    let text: String = rest.take(digits).collect();
    let good = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u32::from_str_radix(&text, 16).ok().filter(|_| good).and_then(char::from_u32)
}

/// A line `name=value` of an environment file: name, value, line.
pub(super) type Variable = (String, String, usize);

/// The variables of an environment file. What is no such line is left out.
pub(super) fn environment_file(text: &str) -> Vec<Variable> {
    let line = |(index, line): (usize, &str)| {
        let line = line.trim().trim_start_matches('\u{feff}');
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.split_once(*quote));
        let value = quoted.map_or_else(|| value.split(" #").next().unwrap_or_default().trim_end(), |(value, _)| value);
        Some((name.trim().to_owned(), value.to_owned(), index + 1))
    };
    text.lines().enumerate().filter_map(line).collect()
}

#[cfg(test)]
#[path = "python_tests.rs"]
mod tests;
