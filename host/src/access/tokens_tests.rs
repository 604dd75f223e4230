use std::{
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicU64, Ordering},
    time::UNIX_EPOCH,
};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

static NOW: AtomicU64 = AtomicU64::new(1_000_000);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW.load(Ordering::Relaxed))
}

fn open(file: &Path) -> Arc<BearerTokens> {
    BearerTokens::open(file.to_owned(), Clock::of(|| UNIX_EPOCH + Duration::from_secs(1_000_000))).unwrap()
}

fn shown(tokens: &BearerTokens, values: &[&str]) -> Verdict {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(header::AUTHORIZATION, value.parse().unwrap());
    }
    tokens.look_for(&headers)
}

fn known(name: &str, role: Role) -> Verdict {
    Verdict::Known(Identity { name: name.to_owned(), role, method: "token" })
}

#[test]
fn a_token_is_known_by_its_hash_alone_and_hidden_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state/tokens.json");
    let made = create(&file, Role::Operator, None, DAY, 1_000_000).unwrap();
    assert!(made.token.starts_with("cha_") && made.token.len() == 4 + 43, "32 bytes");
    let tokens = open(&file);
    assert_eq!(shown(&tokens, &[&format!("Bearer {}", made.token)]), known("operator-1", Role::Operator));
    assert_eq!(shown(&tokens, &[&format!("bEARER  {} ", made.token)]), known("operator-1", Role::Operator));
    let content = fs::read_to_string(&file).unwrap();
    for text in [content, format!("{made:?}{tokens:?}")] {
        assert!(!text.contains(&made.token[4..]), "{text}");
    }
    for path in [&file, &folder.path().join("state/tokens.json.lock")] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::metadata(folder.path().join("state")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_is_no_token_of_ours_is_left_to_other_methods_and_a_wrong_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let token = create(&file, Role::Admin, None, DAY, 1_000_000).unwrap().token;
    let tokens = open(&file);
    for other in
        [&[][..], &["Basic cha_x"], &["Bearer eyJhbGciOiJFUzI1NiJ9.e30.x"], &["Bearer"], &["cha_x"], &["Bearer \u{e9}"], &[token.as_str()]]
    {
        assert_eq!(shown(&tokens, other), Verdict::Absent, "{other:?}");
    }
    let good = format!("Bearer {token}");
    for wrong in [
        &["Bearer cha_"][..],
        &[&good[..good.len() - 1]],
        &[&format!("{good}A")],
        &[&good.replace("cha_", "cha_A")],
        &[&good, &good],
        &[&good, "Bearer x"],
    ] {
        assert!(matches!(shown(&tokens, wrong), Verdict::Refused(_)), "{wrong:?}");
    }
}

#[test]
fn a_token_is_refused_from_its_last_second_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let good = format!("Bearer {}", create(&file, Role::Viewer, None, DAY, 1_000_000).unwrap().token);
    let tokens = BearerTokens::open(file, Clock::of(now)).unwrap();
    NOW.store(1_000_000 + 86_399, Ordering::Relaxed);
    assert_eq!(shown(&tokens, &[&good]), known("viewer-1", Role::Viewer));
    NOW.store(1_000_000 + 86_400, Ordering::Relaxed);
    assert_eq!(shown(&tokens, &[&good]), Verdict::Refused("the token viewer-1 has expired".to_owned()));
}

#[test]
fn names_are_unique_and_a_revoked_token_is_gone_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let make = |name: Option<&str>| create(&file, Role::Viewer, name.map(str::to_owned), DAY, 1_000_000);
    make(Some("ci")).unwrap();
    assert!(matches!(make(Some("ci")).unwrap_err().problem, TokensProblem::NameTaken(_)));
    for bad in ["", "a b", "a\nb", &"x".repeat(65)] {
        assert!(matches!(make(Some(bad)).unwrap_err().problem, TokensProblem::BadName(_)), "{bad:?}");
    }
    let tokens = open(&file);
    let second = format!("Bearer {}", make(None).unwrap().token);
    assert_eq!(shown(&tokens, &[&second]), known("viewer-1", Role::Viewer), "taken without a restart");
    assert_eq!(revoke(&file, "viewer-1").unwrap(), 1);
    assert!(matches!(shown(&tokens, &[&second]), Verdict::Refused(_)));
    assert!(matches!(revoke(&file, "viewer-1").unwrap_err().problem, TokensProblem::NoSuchName(_)));
    assert_eq!(list(&file).unwrap().iter().map(|kept| kept.name.as_str()).collect::<Vec<_>>(), ["ci"]);
}

#[test]
fn tokens_that_are_made_at_the_same_time_are_all_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| create(&file, Role::Viewer, None, DAY, 1_000_000).unwrap());
        }
    });
    assert_eq!(list(&file).unwrap().len(), 8);
}

#[test]
fn once_there_was_a_file_nobody_gets_in_without_a_token_whatever_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let tokens = open(&file);
    assert!(!tokens.in_force());
    let good = format!("Bearer {}", create(&file, Role::Admin, None, DAY, 1_000_000).unwrap().token);
    assert!(tokens.in_force());
    let content = fs::read(&file).unwrap();
    let works = |works: bool| {
        assert!(tokens.in_force());
        assert_eq!(matches!(shown(&tokens, &[&good]), Verdict::Known(_)), works);
    };
    works(true);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o602)).unwrap();
    works(false);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    works(true);
    fs::write(&file, "{").unwrap();
    works(false);
    fs::write(&file, &content).unwrap();
    works(true);
    fs::remove_file(&file).unwrap();
    works(false);
    fs::create_dir(&file).unwrap();
    works(false);
    fs::remove_dir(&file).unwrap();
    fs::write(&file, r#"{"tokens": []}"#).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    works(false);
}

#[test]
fn a_file_that_cannot_be_trusted_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    create(&file, Role::Admin, None, DAY, 1_000_000).unwrap();
    let why = |path: &Path| BearerTokens::open(path.to_owned(), Clock::of(now)).unwrap_err().to_string();
    let link = folder.path().join("link.json");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(why(&link).contains("symbolic link") && why(&link).contains("link.json"), "{}", why(&link));
    assert!(create(&link, Role::Admin, None, DAY, 1).is_err() && fs::symlink_metadata(&link).unwrap().is_symlink());
    for mode in [0o604, 0o602, 0o606] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        assert!(why(&file).contains("chmod 600"), "{}", why(&file));
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let kept = fs::read_to_string(&file).unwrap();
    for damaged in ["", "[]", "{\"tokens\": [{}]}", &kept.replace("admin\"", "root\""), &kept.replace("\"sha256\": \"", "\"sha256\": \"é")]
    {
        fs::write(&file, damaged).unwrap();
        assert!(why(&file).contains("damaged"), "{damaged}: {}", why(&file));
    }
    fs::write(&file, kept.replace("\"role\"", "\"networks\": [], \"role\"")).unwrap();
    assert!(why(&file).contains("newer version"), "a limit of a newer version is not passed over");
    fs::write(&file, "x".repeat((1 << 20) + 1)).unwrap();
    assert!(why(&file).contains("1 MiB"));
    assert!(why(folder.path()).contains("not a regular file"));
}
