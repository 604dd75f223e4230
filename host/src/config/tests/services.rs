//! Tables of services: read as those of types, under names of their own.

use super::*;

#[test]
fn services_are_read_from_every_source() {
    let text = "[services.beat]\nplugin = \"b\"\nservice = \"heartbeat\"\nrequired = false\ndeadline = \"7s\"\nconfig = { interval = 2 }\n";
    let env = [("CONDUCTOR_HOST__SERVICES__from.env__PLUGIN", "e"), ("CONDUCTOR_HOST__SERVICES__from.env__REQUIRED", "false")];
    let settings = good(text, &env, &["services.beat.deadline=9s", "services.x.plugin=x"]);
    assert_eq!(settings.services.keys().collect::<Vec<_>>(), ["beat", "from.env", "x"]);
    let beat = &settings.services["beat"];
    assert_eq!((beat.plugin.as_path(), beat.service.as_deref(), beat.required), (&*settings.base_dir.join("b"), Some("heartbeat"), false));
    assert_eq!((beat.deadline, beat.config.as_ref().unwrap()["interval"].as_u64()), (Duration::from_secs(9), Some(2)));
    let plain = &settings.services["x"];
    assert_eq!((plain.required, plain.deadline, &plain.config, &plain.service), (true, Duration::from_secs(5), &None, &None));
    // A type of the same name is another thing.
    let both = good("[types.a]\nplugin = \"t\"\n[services.a]\nplugin = \"s\"\n", &[], &[]);
    assert!(both.types["a"].plugin.ends_with("t") && both.services["a"].plugin.ends_with("s"));
}

#[test]
fn mistakes_in_services_are_told_as_those_in_types() {
    let lines = lines(
        "[services.\"bad name\"]\nplugin = \"p\"\n[services.empty]\n[services.a]\nplugin = \"p\"\nservise = \"x\"\nconductor = \"y\"\n",
        &[("CONDUCTOR_HOST__SERVICES__X", "1")],
        &["services.x=1"],
    );
    let starts = [
        "settings.toml:1: services.\"bad name\": not the name of a service, expected 1 to 64",
        "settings.toml:3: services.empty.plugin: missing, expected a path",
        "settings.toml:6: services.a.servise: unknown key; did you mean services.a.service?",
        "settings.toml:7: services.a.conductor: unknown key; did you mean types.NAME.conductor?",
        "environment variable CONDUCTOR_HOST__SERVICES__X: services: expected the name of a service and a key, as in services.NAME.plugin",
        "--set services.x: services: expected the name of a service and a key, as in services.NAME.plugin",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\n{start}");
    }
    assert_eq!(only("services = 1\n", &[], &[]), "settings.toml:1: services: found a value of type integer, expected a table with keys");
    assert_eq!(only("[\"services.NAME\"]\nplugin = 1\n", &[], &[]), "settings.toml:1: \"services.NAME\": unknown section or key");
    assert_eq!(only("[servces.a]\nplugin = 1\n", &[], &[]), "settings.toml:1: servces: unknown section or key; did you mean services?");
}
