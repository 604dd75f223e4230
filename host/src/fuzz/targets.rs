//! The targets whose code can be reached from here.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::Path,
    str,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode},
    response::IntoResponse,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use conductor_abi::{rules, wire::Manifest};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    conductors::{
        config,
        inspect::{self, Target},
        library,
        refusal::Reason,
    },
    config::{Flag, Settings},
    http::{
        body, forwarded as proxies,
        iot::{self, Join},
        legacy, query as queries,
    },
    joins::{
        Shown,
        secret::{Bound, Secrets},
    },
    networks::{Networks, Source, network},
    plugin::schema,
    sessions::{Pin, SessionId},
    tokens::{
        claims::{Claims, Grantee, UsernameRule},
        grant::{Grant, is_valid_filter, is_valid_topic},
        keys::SigningKey,
        signer::{Signer, TokenError},
    },
};

fn digits(text: &str) {
    assert_eq!(SessionId::parse(text).map(|id| id.to_string()), Pin::parse(text).map(Pin::reveal));
    if let Some(id) = SessionId::parse(text) {
        assert_eq!(id.to_string(), text);
        assert_eq!(SessionId::unpack(id.packed()), Some(id));
    }
}

/// The body of a join. What is not understood is a 400; ids and pins are those that were written; a secret and a resume token (`SECRET` and
/// `RESUME` stand for good ones) open what they were made for, as they were written and no other way; no client is called what could mean
/// something in a topic.
pub(super) fn join(bytes: &[u8]) -> bool {
    let read = body::parse::<Join>(bytes).and_then(|join| Ok((join.shown()?, join.client)));
    let (shown, client) = match read {
        Ok(read) => read,
        Err(problem) => {
            assert_eq!(problem.into_response().status(), StatusCode::BAD_REQUEST);
            return false;
        }
    };
    if iot::is_client(&client) {
        assert!(is_valid_topic(&client) && !client.contains(['/', '$']) && !rules::is_reserved(&client), "{client:?}");
    }
    if rules::client(&client).is_ok() {
        assert!(is_valid_topic(&client) && !client.starts_with('$') && !client.contains('/'), "{client:?}");
    }
    let secrets = Secrets::of(&[1; 32]);
    let Some(id) = SessionId::parse("123456") else { return false };
    let (session, later) = (Bound { id, created_at: 5 }, Bound { id, created_at: 6 });
    let (good, token) = (secrets.join_secret(session), secrets.resume(session, "phone", 7));
    match shown {
        Shown::Pin(pin) => pin.into_iter().for_each(|pin| digits(&pin.reveal())),
        Shown::Secret(secret) => {
            let secret = secret.replace("SECRET", &good);
            assert_eq!(secrets.is_join_secret(session, &secret), secret == good, "{secret:?}");
            assert!(!secrets.is_join_secret(later, &secret));
        }
        Shown::Resume(resume) => {
            let resume = resume.replace("RESUME", &token);
            let count = secrets.resumes(session, &client, &resume);
            assert_eq!(count, (client == "phone" && resume == token).then_some(7), "{resume:?} of {client:?}");
            assert_eq!(secrets.resumes(later, &client, &resume), None);
        }
    }
    true
}

/// The first line is a peer, each further one a header `X-Forwarded-For`. Only a trusted proxy says who is behind it, and nothing that stands
/// before the first address that is none of them counts: anybody can have written it.
pub(super) fn forwarded(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let peer = lines.next().and_then(|line| str::from_utf8(line).ok()?.parse::<IpAddr>().ok());
    let Some(peer) = peer.map(|peer| SocketAddr::new(peer, 1)) else { return false };
    let trusted: Networks = ["10.0.0.0/8", "fd00::/8"].into_iter().filter_map(network).collect();
    let (mut headers, mut before) = (HeaderMap::new(), HeaderMap::new());
    before.append("x-forwarded-for", HeaderValue::from_static("192.0.2.66, x"));
    for value in lines.filter_map(|line| HeaderValue::from_bytes(line).ok()).take(100) {
        headers.append("x-forwarded-for", value.clone());
        before.append("x-forwarded-for", value);
    }
    let client = proxies::client(peer, &headers, &trusted);
    let written: Vec<_> = headers.values().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    assert!(client == peer || written.iter().any(|entry| entry.contains(['.', ':'])), "{client} is made up");
    assert!(trusted.contains(peer.ip()) || client == peer, "{peer} is no proxy, and was believed");
    assert!(trusted.contains(client.ip()) || proxies::client(peer, &before, &trusted) == client, "what stands before {client} counts");
    client != peer
}

/// The query of a route below `/api`. A value that is escaped is read as it was; parameters of a request are JSON whatever was written.
pub(super) fn query(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let mut understood = false;
    for name in ["id", "type", "method", "params"] {
        let Ok(Some(value)) = queries::parameter(text, name) else { continue };
        assert_eq!(value, value.trim());
        let escaped = format!("x=%&{name}=no&{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC));
        assert_eq!(queries::parameter(&escaped, name), Ok(Some(value.clone())));
        digits(&value);
        let params = legacy::params(Some(value));
        assert!(serde_json::from_slice::<&RawValue>(&params).is_ok(), "no JSON: {params:?}");
        understood = true;
    }
    understood
}

/// A settings file; lines that begin with `$ ` are variables of the environment, those with `-- ` are flags. Each mistake is one line; what is
/// shown of good settings means the same again.
pub(super) fn settings(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let (mut file, mut env, mut flags) = (String::new(), Vec::new(), Vec::new());
    for line in text.split_inclusive('\n') {
        let bare = line.strip_suffix('\n').unwrap_or(line);
        if let Some((name, value)) = bare.strip_prefix("$ ").and_then(|rest| rest.split_once('=')) {
            env.push((OsString::from(name), OsString::from(value)));
        } else if let Some(flag) = bare.strip_prefix("-- ") {
            flags.push(Flag::set(flag));
        } else {
            file += line;
        }
    }
    let base = Path::new("/srv/host");
    let parse = |text: &str, env, flags: &[Flag]| Settings::parse(Some((Path::new("settings.toml"), text)), base, env, flags);
    match parse(&file, env, &flags) {
        Ok((settings, warnings)) => {
            warnings.iter().for_each(|warning| assert_eq!(warning.to_string().lines().count(), 1, "{warning}"));
            let shown = settings.show();
            // Null, which a flag can give, has no form in TOML; a secret is not shown.
            let hidden = |line: &str| {
                line.contains("(not shown)") || line.starts_with("# ") && (line.contains(" is set, and not shown") || line.contains("null"))
            };
            if shown.lines().any(hidden) {
                return true;
            }
            let (again, _) = parse(&shown, Vec::new(), &[]).unwrap_or_else(|mistakes| panic!("{shown}\n{mistakes}"));
            assert_eq!(settings.differs_in(&again), [""; 0], "{shown}");
            assert_eq!(format!("{:?}{:?}", settings.types, settings.services), format!("{:?}{:?}", again.types, again.services), "{shown}");
            true
        }
        Err(mistakes) => {
            assert_eq!(mistakes.to_string().lines().count(), mistakes.iter().count(), "{mistakes}");
            false
        }
    }
}

/// As many lines of a kind are looked at: the work is each with each.
const MOST: usize = 12;

/// Lines: a letter, then a filter. `s` and `p` say what a conductor lets a client subscribe and publish below its session, `S` and `P` what a
/// token says, and of all others it is asked whether they may. Nobody gets beyond the session; what both lists allow is what each does.
pub(super) fn grants(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let of = |letter: char| text.split('\n').filter_map(|line| line.strip_prefix(letter)).take(MOST).map(str::to_owned).collect::<Vec<_>>();
    let (subscribe, publish) = (of('s'), of('p'));
    let Some(session) = SessionId::parse("123456") else { return false };
    let grant = Grant::within_session(session, Some(&subscribe), Some(&publish));
    let token = Grant::from_lists(of('S'), of('P'));
    let both = grant.intersect(&token);
    assert_eq!(both, token.intersect(&grant));
    assert_eq!(token.intersect(&token), token);
    let whole = Grant::whole_session(session);
    let mut allowed = false;
    for asked in text.split('\n').filter_map(|line| line.get(line.chars().next()?.len_utf8()..)).take(MOST) {
        for name in [asked, &format!("/123456/{asked}")] {
            let of_both = (both.may_subscribe(name), both.may_publish(name));
            allowed |= of_both.0 || of_both.1;
            let of_each = (grant.may_subscribe(name) && token.may_subscribe(name), grant.may_publish(name) && token.may_publish(name));
            // One filter of each may cover together what no single meeting of two does, so of subscriptions one side only is sure.
            assert!(of_both.0 <= of_each.0 && of_both.1 == of_each.1, "{name:?}: {of_both:?}, each {of_each:?}");
            for grant in [&grant, &both] {
                if grant.may_publish(name) {
                    assert!(name.starts_with("/123456/") && whole.may_publish(name), "{name:?} by {grant:?}");
                }
                if grant.may_subscribe(name) {
                    let filter = name.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map_or(name, |(_, filter)| filter);
                    assert!(filter.starts_with("/123456/") && whole.may_subscribe(name), "{name:?} by {grant:?}");
                }
            }
            if let Some(below) = name.strip_prefix("/123456/") {
                let valid: Vec<_> = publish.iter().filter(|filter| is_valid_filter(&format!("/123456/{filter}"))).cloned().collect();
                assert_eq!(grant.may_publish(name), rules::may_publish(Some(&valid), below) && is_valid_topic(name), "{name:?}");
            }
        }
    }
    allowed
}

/// When all tokens are signed and looked at.
const T: u64 = 1_700_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A signer, its key once more, and its one token.
fn signer() -> &'static (Signer, SigningKey, String) {
    static SIGNER: OnceLock<(Signer, SigningKey, String)> = OnceLock::new();
    SIGNER.get_or_init(|| {
        let key = || SigningKey::from_pem(include_bytes!("../../tests/keys/test-ed25519.pem"));
        let (Ok(key), Ok(again), Some(session)) = (key(), key(), SessionId::parse("123456")) else { panic!("the key of the tests is bad") };
        let Ok(signer) = Signer::new(key, "conductor-host") else { panic!("no signer") };
        let filters = ["/123456/#".to_owned()];
        let grantee = Grantee { session, client_id: "phone", username: UsernameRule::SessionId, subs: &filters, publ: &filters };
        let Ok(signed) = signer.sign(&grantee, at(T), Duration::from_secs(60)) else { panic!("no token") };
        (signer, again, signed.token)
    })
}

/// What a device shows as its token, as it is; after `h` and `c` a header and claims that are signed with the host's own key; after `t` a
/// change of a good token. Only what was signed is good, only in its time, and it says what was signed.
pub(super) fn token(bytes: &[u8]) -> bool {
    let (signer, key, good) = signer();
    let forged = |header: &[u8], claims: &[u8]| {
        let mut message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let Ok(signature) = key.sign(message.as_bytes()) else { panic!("the key does not sign") };
        message.push('.');
        BASE64.encode_string(signature, &mut message);
        message
    };
    let header = json!({"typ": "JWT", "alg": "EdDSA", "kid": key.kid()}).to_string();
    let shown = match bytes {
        [b'c', claims @ ..] => forged(header.as_bytes(), claims).into_bytes(),
        [b'h', header @ ..] => {
            let claims = good.split('.').nth(1).and_then(|part| BASE64.decode(part).ok()).unwrap_or_default();
            let kid = String::from_utf8_lossy(header).replace("KID", key.kid());
            forged(kid.as_bytes(), &claims).into_bytes()
        }
        [b't', low, high, with, ..] => {
            let mut changed = good.clone().into_bytes();
            let place = usize::from(u16::from_le_bytes([*low, *high])) % changed.len();
            changed[place] = *with;
            assert_eq!(signer.verify(&changed, at(T)).is_ok(), changed == good.as_bytes(), "byte {place} as {with}");
            changed
        }
        _ => bytes.to_vec(),
    };
    let now = signer.verify(&shown, at(T));
    // Nothing that is wrong in itself becomes right in time.
    let timely = matches!(now, Ok(_) | Err(TokenError::NotYetValid | TokenError::Expired));
    for (place, time) in [0, T - 1_000_000, T + 59, T + 1_000_000, u64::from(u32::MAX)].into_iter().filter(|_| timely).enumerate() {
        let Ok(claims) = signer.verify(&shown, at(time)) else { continue };
        assert!(claims.iss == "conductor-host" && time < claims.exp, "{place}: {claims:?}");
        let Ok(text) = str::from_utf8(&shown) else { panic!("a token that is no text") };
        let said = text.split('.').nth(1).and_then(|part| BASE64.decode(part).ok()).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<Claims>(&said).ok().as_ref(), Some(&claims));
    }
    if let Ok(claims) = &now {
        digits(&claims.sid);
    }
    now.is_ok()
}

/// An address or a network. What is understood is written so that it is understood again; an address is in its network and its source.
pub(super) fn networks(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let found = network(text);
    if let Some(found) = found {
        assert_eq!(network(&found.to_string()), Some(found));
        let all = [found].into_iter().collect::<Networks>();
        assert!(all.contains(found.network()) || found.network().to_canonical() != found.network(), "{found}");
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let source = Source::of(address);
        assert_eq!(source, Source::of(address.to_canonical()));
        assert!(network(&source.to_string()).is_some_and(|network| network.contains(&address.to_canonical())), "{source}");
    }
    found.is_some()
}

/// What a plugin says it offers. What is taken has unique names and means the same when it is written again; any schema in it is shown in one
/// short line and takes a config or says what is wrong.
pub(super) fn manifest(bytes: &[u8]) -> bool {
    let manifest = match library::manifest(bytes) {
        Ok(manifest) => manifest,
        Err(Reason::BadManifest(_) | Reason::OfferedTwice(_)) => return false,
        Err(other) => panic!("another reason: {other:?}"),
    };
    let written = serde_json::to_vec(&manifest).unwrap_or_default();
    let again = library::manifest(&written).unwrap_or_else(|reason| panic!("what was written is refused: {reason}"));
    let offers = |manifest: &Manifest| {
        let offers = manifest.conductors.iter().chain(&manifest.services);
        offers.map(|offer| (offer.name.clone(), offer.requires.clone(), offer.methods.len(), offer.config.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(offers(&again), offers(&manifest));
    let given = json!({"a": 1, "text": "x", "list": [1, "x", null], "nested": {"a": {"b": 0.5}}, "empty": {}});
    let given: &Map<String, Value> = given.as_object().unwrap_or_else(|| panic!("an object"));
    for offer in manifest.conductors.iter().chain(&manifest.services) {
        let schemas = offer.methods.iter().flat_map(|method| [&method.params, &method.result]).chain([&offer.config]).flatten();
        for schema in schemas {
            let short = schema::short(schema);
            assert!(short.lines().count() <= 1 && short.len() < 4096, "{short:?}");
            if let Err(mistakes) = config::prepare("types", "a", Some(given), Some(schema), Path::new("/nowhere"), &|_| None) {
                assert!(!mistakes.is_empty());
            }
        }
    }
    true
}

/// A plugin's file. It is for one system at most.
pub(super) fn inspect(bytes: &[u8]) -> bool {
    let systems = ["Linux", "Windows", "macOS", "FreeBSD"].map(|system| Target { system, arch: "x86_64".to_owned() });
    let taken = systems.iter().filter(|target| inspect::inspect(bytes, target).is_ok()).count();
    assert!(taken <= 1, "it is taken for {taken} systems");
    taken == 1
}
