//! The reference and the example say what the program does.

use super::*;

#[test]
fn the_reference_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(stored == reference(), "stale: cargo run -p conductor-host -- config reference > docs/settings.md");
}

#[test]
fn the_example_shows_the_defaults_and_loads_without_warnings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host.example.toml");
    let (settings, warnings) = Settings::load(Some(&path), [], &[]).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(settings.types.keys().collect::<Vec<_>>(), ["active", "default", "quiz"]);
    let (defaults, _) = Settings::parse(None, &settings.base_dir, [], &[]).unwrap();
    for default in &defaults.effective {
        let shown = settings.effective.iter().find(|shown| shown.path == default.path).unwrap();
        assert_eq!(shown.value, default.value, "{}", default.path);
        assert_eq!(shown.origin == Origin::Default, default.value.is_none(), "{} is not in the example", default.path);
    }
    // What is commented out is right, too, and with it every key is shown, but for one that excludes another.
    let text = std::fs::read_to_string(&path).unwrap();
    let whole: String =
        text.lines().map(|line| format!("{}\n", line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))).collect();
    let settings = good(&whole, &[], &[]);
    let unset = |path: &str| settings.effective.iter().any(|known| known.path == path && known.origin == Origin::Default);
    let unset = |path: &str| path != "mqtt.link_password_file" && unset(path);
    // One type that shows the keys of a type is enough.
    let other_type = |path: &str| path.starts_with("types.") && !path.starts_with("types.active.");
    assert!(!settings.effective.iter().any(|known| !other_type(&known.path) && unset(&known.path)));
}
