//! Whatever the sources hold, the answer is settings or mistakes.

use proptest::prelude::*;

use super::*;

/// Words that make a random text look like settings.
fn toml_like() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("[types.a]"),
        Just("[iot]"),
        Just("[[mqtt]]"),
        Just("listen"),
        Just("types"),
        Just("plugin"),
        Just("config"),
        Just(" = "),
        Just("."),
        Just("\n"),
        Just("\""),
        Just("'"),
        Just("\"\"\""),
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just(","),
        Just("1"),
        Just("nan"),
        Just("1e999"),
        Just("0x"),
        Just("1979-05-27"),
        Just("true"),
        Just("#"),
        Just("\\u00"),
        Just("é"),
        Just("\0"),
        Just("\u{feff}"),
        Just("log.level"),
        Just("ttl = \"99999999999y\""),
        Just("-"),
    ];
    proptest::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![any::<String>(), toml_like()]) {
        check_total(load(&text, &[], &[]));
    }

    #[test]
    fn no_environment_and_no_flag_makes_it_panic(
        name in "(IOT|TYPES|TYPES__a|LOG|\\PC{0,3})(__)?(LISTEN|PLUGIN|CONFIG|LEVEL|\\PC{0,3})",
        key in "(iot|types|types.a|log|token|\\PC{0,3})\\.?(listen|plugin|config|level|ttl|\\PC{0,3})",
        value in any::<String>(),
    ) {
        check_total(load("", &[(&format!("CONDUCTOR_HOST__{name}"), &value)], &[&format!("{key}={value}")]));
    }
}

/// Settings can be shown; mistakes are one line each.
fn check_total(loaded: Result<(Settings, Vec<Warning>), Mistakes>) {
    match loaded {
        Ok((settings, _)) => assert!(!settings.show().is_empty()),
        Err(mistakes) => assert_eq!(mistakes.to_string().lines().count(), mistakes.iter().count(), "{mistakes}"),
    }
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let deep = 200_000;
    for text in [
        format!("[types.a]\nplugin = \"p\"\nconfig.x = {}1{}\n", "[".repeat(deep), "]".repeat(deep)),
        format!("[types.a]\nplugin = \"p\"\nconfig{} = 1\n", ".x".repeat(deep)),
        format!("[types.a.config{}]\nx = 1\n", ".x".repeat(deep)),
    ] {
        load(&text, &[], &[]).unwrap_err();
    }
}
