use conductor_abi::rules;

use super::*;

fn grant() -> Grant {
    Grant::whole_session(SessionId::parse("123456").unwrap())
}

#[test]
fn a_whole_session_is_all_below_its_prefix() {
    for filter in ["/123456/test", "/123456/#", "/123456/test/customtopic", "/123456/+", "/123456/+/x/#", "/123456/", "$share/g//123456/#"]
    {
        assert!(grant().may_subscribe(filter), "{filter}");
    }
    for topic in ["/123456/test", "/123456/test/customtopic", "/123456/", "/123456//", "/123456/späce unit", "/123456/$x"] {
        assert!(grant().may_publish(topic), "{topic}");
    }
}

#[test]
fn what_is_outside_is_refused() {
    let outside = [
        "/test/customtopic",
        "/#",
        "#",
        "+",
        "+/test",
        "+/123456/test",
        "/+/test",
        "/+/#",
        "+/+/#",
        "$SYS/#",
        "$SYS/broker",
        "/1234567/x",
        "/12345/x",
        "/1234567/#",
        "/123456",
        "123456/test",
        "//123456/test",
        "",
        "$share/g/#",
        "$share/g//+/x",
        "$share/g/123456/#",
        "$share/g/$share/h//123456/#",
        "$share//123456/#",
        "$share/+//123456/x",
        "$share/#//123456/x",
        "$share/g",
        "$share/g/",
        "$share",
        "$SHARE/g//123456/#",
        "/123456/a#",
        "/123456/#/b",
        "/123456/a+",
        "/123456/##",
        "/123456/a\0b",
        "/١٢٣٤٥٦/x",
    ];
    for filter in outside {
        assert!(!grant().may_subscribe(filter), "{filter}");
        assert!(!grant().may_publish(filter), "{filter}");
    }
    for topic in ["/123456/#", "/123456/+", "/123456/a+", "$share/g//123456/a"] {
        assert!(!grant().may_publish(topic), "{topic}");
    }
    let long = format!("/123456/{}", "x".repeat(MAX_TOPIC_BYTES));
    assert!(!grant().may_subscribe(&long) && !grant().may_publish(&long));
}

#[test]
fn nothing_allows_nothing_and_invalid_filters_cover_nothing() {
    assert!(!Grant::nothing().may_subscribe("/123456/a") && !Grant::nothing().may_publish("/123456/a"));
    let grant = Grant::from_lists(vec!["/1/#/a".to_owned(), String::new(), "/1/a".to_owned()], vec!["/1/b+".to_owned()]);
    assert_eq!(grant.subscribe_list(), ["/1/a"]);
    assert!(grant.publish_list().is_empty());
}

#[test]
fn filters_cover_together_what_none_covers_alone() {
    let list = |filters: &[&str]| Grant::from_lists(filters.iter().map(ToString::to_string).collect(), vec![]);
    assert!(list(&["/1/+", "/1/+/#"]).may_subscribe("/1/#"));
    assert!(!list(&["/1/+", "/1/+/+/#"]).may_subscribe("/1/#"), "two levels below are missing");
}

#[test]
fn an_intersection_of_the_usual_grant_with_a_narrower_one_is_the_narrower() {
    let narrow = Grant::from_lists(vec!["/123456/to/a/#".to_owned(), "/9/#".to_owned()], vec!["/+/x".to_owned()]);
    let both = grant().intersect(&narrow);
    assert_eq!(both.subscribe_list(), ["/123456/to/a/#"]);
    assert_eq!(both.publish_list(), ["/123456/x"]);
    assert_eq!(both, narrow.intersect(&grant()));
}

/// The oracle knows no filters' algebra: it asks of each topic of a finite world, by the definition of MQTT, who matches it.
///
/// The world has names up to one level deeper than any filter, and one name (`z`) that no filter spells out. A topic outside of it
/// is told apart by no filter from one inside, in which unknown names are `z` and levels beyond the deepest are left out; so
/// covering this world is covering all.
mod oracle {
    use super::*;

    const DEEPEST: usize = 3;

    /// A set of topics, one bit each.
    type Set = Vec<u64>;

    fn grow(levels: &[&str], depth: usize) -> Vec<String> {
        let mut all: Vec<String> = levels.iter().map(ToString::to_string).collect();
        let mut last = all.clone();
        for _ in 1..depth {
            last = last.iter().flat_map(|front| levels.iter().map(move |level| format!("{front}/{level}"))).collect();
            all.extend(last.clone());
        }
        all
    }

    fn filters() -> Vec<String> {
        let plain = grow(&["", "a", "$s", "+"], DEEPEST);
        let open = grow(&["", "a", "$s", "+"], DEEPEST - 1).into_iter().map(|front| format!("{front}/#"));
        plain.iter().cloned().chain(open).chain(["#".to_owned()]).filter(|f| !f.is_empty()).collect()
    }

    fn is_match(filter: &[&str], topic: &[&str], first: bool) -> bool {
        match (filter, topic) {
            ([], []) => true,
            (["#"], [name, ..]) => !(first && name.starts_with('$')),
            (["+", filter @ ..], [name, topic @ ..]) => !(first && name.starts_with('$')) && is_match(filter, topic, false),
            ([same, filter @ ..], [name, topic @ ..]) => same == name && is_match(filter, topic, false),
            _ => false,
        }
    }

    fn matched(filter: &str, topics: &[String]) -> Set {
        let filter: Vec<_> = filter.split('/').collect();
        let mut set = vec![0; topics.len().div_ceil(64)];
        for (n, topic) in topics.iter().enumerate() {
            if is_match(&filter, &topic.split('/').collect::<Vec<_>>(), true) {
                set[n / 64] |= 1 << (n % 64);
            }
        }
        set
    }

    fn union(sets: &[&Set]) -> Set {
        (0..sets[0].len()).map(|n| sets.iter().fold(0, |all, set| all | set[n])).collect()
    }

    /// xorshift: the same pairs in every run.
    fn draw(state: &mut u64, below: usize) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state % below as u64) as usize
    }

    #[test]
    fn a_million_random_pairs_agree_with_the_naive_oracle() {
        let topics: Vec<_> = grow(&["", "a", "$s", "z"], DEEPEST + 1).into_iter().filter(|t| !t.is_empty()).collect();
        let filters = filters();
        let sets: Vec<_> = filters.iter().map(|f| matched(f, &topics)).collect();
        let (mut state, mut allowed_count) = (0x9e37_79b9_7f4a_7c15, 0);
        for _ in 0..1_000_000 {
            let asked = draw(&mut state, filters.len());
            let allowed: Vec<_> = (0..=draw(&mut state, 3)).map(|_| draw(&mut state, filters.len())).collect();
            let covered = union(&allowed.iter().map(|n| &sets[*n]).collect::<Vec<_>>());
            let expected = sets[asked].iter().zip(&covered).all(|(asked, covered)| asked & !covered == 0);
            let list: Vec<_> = allowed.iter().map(|n| filters[*n].clone()).collect();
            assert_eq!(covers(&list, &filters[asked]), expected, "{} in {list:?}", filters[asked]);
            allowed_count += usize::from(expected);
        }
        assert!((50_000..950_000).contains(&allowed_count), "the pairs must tell something: {allowed_count}");
    }

    #[test]
    fn every_overlap_is_what_both_match_and_every_topic_is_judged_alike() {
        let topics: Vec<_> = grow(&["", "a", "$s", "z"], DEEPEST + 1).into_iter().filter(|t| !t.is_empty()).collect();
        let filters = filters();
        let sets: Vec<_> = filters.iter().map(|f| matched(f, &topics)).collect();
        for (left, left_set) in filters.iter().zip(&sets) {
            let publisher = Grant::from_lists(vec![], vec![left.clone()]);
            for (n, topic) in topics.iter().enumerate() {
                assert_eq!(publisher.may_publish(topic), left_set[n / 64] >> (n % 64) & 1 == 1, "{topic} by {left}");
            }
            for (right, right_set) in filters.iter().zip(&sets) {
                let both: Set = left_set.iter().zip(right_set).map(|(l, r)| l & r).collect();
                let found = overlap(left, right);
                let matched = found.as_ref().map_or_else(|| vec![0; both.len()], |f| matched(f, &topics));
                assert_eq!(matched, both, "{left} and {right}: {found:?}");
            }
        }
    }
}

/// The SDK's test kit goes by the rule of the contract, the broker by this module.
#[test]
fn the_rule_for_names_within_a_session_says_the_same() {
    let id = SessionId::parse("123456").unwrap();
    let levels = ["a", "b", "", "$x", "+", "#"];
    let mut filters: Vec<String> = levels.iter().map(ToString::to_string).collect();
    for _ in 0..2 {
        filters = filters.iter().flat_map(|head| levels.map(|level| format!("{head}/{level}"))).chain(levels.map(str::to_owned)).collect();
    }
    for filter in filters.iter().filter(|filter| is_valid_filter(filter)) {
        let list = [filter.clone()];
        let grant = Grant::within_session(id, None, Some(&list));
        for name in &filters {
            let (here, there) = (grant.may_publish(&format!("/123456/{name}")), rules::may_publish(Some(&list), name));
            assert_eq!(here, there, "{filter:?} {name:?}");
        }
    }
    let all = Grant::within_session(id, None, None);
    assert!(filters.iter().all(|name| all.may_publish(&format!("/123456/{name}")) == rules::may_publish(None, name)));
}
