//! What is understood of a settings module, and what is told to be unread.

use proptest::prelude::*;

use super::*;

fn text(text: &str) -> Expression {
    Expression::Text(text.into())
}

fn environment(name: &str, default: Expression) -> Expression {
    Expression::Environment { name: name.into(), default: Box::new(default) }
}

fn value(source: &str) -> Expression {
    let found = assignments(&format!("NAME = {source}\n"));
    assert_eq!(found.len(), 1, "{source}: {found:?}");
    found[0].value.clone()
}

#[test]
fn plain_values_are_read() {
    use Expression::{Bool, Integer, None, Unread};
    for (source, expected) in [
        ("'a'", text("a")),
        ("\"a # no comment\"  # a comment", text("a # no comment")),
        ("r'C:\\x'", text("C:\\x")),
        ("'it\\'s \\u00e4\\n'", text("it's ä\n")),
        ("'''three\nlines'''", text("three\nlines")),
        ("''", text("")),
        ("8888", Integer(8888)),
        ("50_001", Integer(50_001)),
        ("-1", Integer(-1)),
        ("(\n  8888  # inside\n)", Integer(8888)),
        ("True", Bool(true)),
        ("None", None),
        ("int('12')", Integer(12)),
        ("str(12)", text("12")),
        ("os.environ.get('X')", environment("X", None)),
        ("os.environ.get(\"X\", 'a, b')", environment("X", text("a, b"))),
        ("int(os.getenv('X', 1))", environment("X", Integer(1))),
        ("os.environ['X']", environment("X", None)),
        ("os.environ.get('X') or 'y'", Expression::Or(Box::new(environment("X", None)), Box::new(text("y")))),
        ("{'a': A, \"b\": m.B,}", Expression::Dictionary(vec![("a".into(), "A".into()), ("b".into(), "m.B".into())])),
        (
            "{'a': f(1, {2: 3}), 'b': [1, 2]}",
            Expression::Dictionary(vec![("a".into(), "f(1, {2: 3})".into()), ("b".into(), "[1, 2]".into())]),
        ),
        ("{}", Expression::Dictionary(vec![])),
        ("1.5", Unread),
        ("'a' + 'b'", Unread),
        ("'a' 'b'", Unread),
        ("'a' if X else 'b' or 'c'", Unread),
        ("f'{x}'", Unread),
        ("b'a'", Unread),
        ("'\\N{DASH}'", Unread),
        ("os.path.join('a', 'b')", Unread),
        ("('a',)", Unread),
        ("['a', 'b']", Unread),
        ("{**A, 'b': 1}", Unread),
        ("{name: 1}", Unread),
        ("open('x').read()", Unread),
        ("os.environ.get(name)", Unread),
        ("(1) + (2)", Unread),
        ("99999999999999999999", Unread),
        ("'not closed", Unread),
        ("", Unread),
    ] {
        assert_eq!(value(source), expected, "{source}");
    }
}

/// Name, line, condition.
fn places(source: &str) -> Vec<(String, usize, Option<String>)> {
    assignments(source).into_iter().map(|one| (one.name, one.line, one.condition)).collect()
}

#[test]
fn names_are_found_with_their_lines_and_conditions() {
    let source = "\u{feff}\"\"\"Text with\nA = 1 in it\n\"\"\"\r\n\
        lower = 2\nA: int = 3  # B = 4\n\n\
        if not   A:\n    C = 5\n    if x == 'y':\n\tD = 6\n    E = 7\n\nF = f(G=1, H={'i': 1})\n\
        J = \\\n  8\nif A == B: K = 1\nif A != 3 and B <= 4:\n    pass\n";
    let at = |name: &str, line, condition: Option<&str>| (name.to_owned(), line, condition.map(str::to_owned));
    let found = places(source);
    let expected = [
        at("A", 5, None),
        at("C", 8, Some("if not A")),
        at("D", 10, Some("if x == 'y'")),
        at("E", 11, Some("if not A")),
        at("F", 13, None),
        at("J", 14, None),
        at("A", 16, None),
        at("B", 16, None),
        at("K", 16, None),
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_assigns_in_another_way_is_unread_and_not_overlooked() {
    for (source, names) in [
        ("A = B = 1", &["A", "B"][..]),
        ("A, B = 1, 2", &["A", "B"]),
        ("A += 1", &["A"]),
        ("A = 1; B = 2", &["A", "B"]),
        ("if x: A = 1", &["A"]),
        ("A[0] = 1", &["A"]),
    ] {
        let found = assignments(source);
        assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), names, "{source}");
        assert!(found.iter().all(|one| one.value == Expression::Unread), "{source} {found:?}");
    }
}

#[test]
fn keyword_arguments_are_found() {
    let source = "hostname = 'no'\nasync with aiomqtt.Client(\n    hostname=\"mqtt\",  # port=1\n    port=18_83, transport = 'tcp',\n    tls_context=make(a=1),\n) as c:\n    pass\n";
    assert_eq!(keyword(source, "hostname"), Some((2, text("mqtt"))));
    assert_eq!(keyword(source, "port"), Some((2, Expression::Integer(1883))));
    assert_eq!(keyword(source, "transport"), Some((2, text("tcp"))));
    assert_eq!(keyword(source, "tls_context"), Some((2, Expression::Unread)));
    assert_eq!(keyword(source, "tls_params"), None);
}

#[test]
fn an_environment_file_is_read() {
    let text = "# a=1\n\nmode=dev # note\nexport B = 'x # y'\nempty=\nno line\nC=\"q\" # z\n";
    let line = |name: &str, value: &str, line| (name.to_owned(), value.to_owned(), line);
    assert_eq!(environment_file(text), [line("mode", "dev", 3), line("B", "x # y", 4), line("empty", "", 5), line("C", "q", 7)]);
}

proptest! {
    #[test]
    fn no_text_is_too_odd(source in "[A-C =:#'\"\\\\(){},\n\t+a-c0-9é]{0,60}") {
        assignments(&source);
        keyword(&source, "a");
        environment_file(&source);
    }

    #[test]
    fn a_text_of_python_is_read_back(content in "[ -~]{0,20}") {
        let source = format!("A = '{}'", content.replace('\\', "\\\\").replace('\'', "\\'"));
        prop_assert_eq!(&assignments(&source)[0].value, &text(&content));
    }
}
