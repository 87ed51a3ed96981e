//! How settings become a configuration.

use super::*;
use crate::config::Inputs;
use std::path::Path;

fn machine() -> Machine {
    Machine { cores: 4, host: "h1".to_owned(), memory: 8 << 30 }
}

fn check(text: &str) -> Result<Config, Vec<String>> {
    let mut bad = Vec::new();
    let raw = RawConfig::parse(text, Path::new("w.toml"), &mut bad);
    raw.check(&machine(), bad).map_err(|bad| bad.iter().map(ToString::to_string).collect())
}

fn faults(text: &str) -> Vec<String> {
    check(text).err().unwrap_or_default()
}

#[test]
fn nothing_written_is_the_defaults() {
    let config = check("").unwrap();
    assert_eq!(config.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(config.shards, 4);
    assert_eq!(config.node.node_name, "h1");
    assert_eq!(config.node.limits.connections, 200_000);
    assert_eq!(config.node.message_bytes, 65_536);
    assert_eq!(config.node.outbox.bytes, 262_144);
    assert_eq!(config.node.outbox.events, 1024);
    assert_eq!(config.node.memory_max, 2 << 30, "a quarter");
    assert_eq!(config.node.slow_disconnect, Some(Duration::from_secs(30)));
    assert_eq!(config.node.ping_interval, Duration::from_secs(25));
    assert_eq!(config.http.body_bytes, 16 << 20);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let path = std::env::temp_dir().join(format!("weir-order-{}.toml", std::process::id()));
    std::fs::write(&path, "shards = 1\ndrain = \"1s\"\nnode = \"file\"\n").unwrap();
    let variables = [("WEIR_SHARDS", "2"), ("WEIR_DRAIN", "2s")];
    let mut bad = Vec::new();
    let inputs = Inputs {
        file: Some(&path),
        environment: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        flags: vec![(Key::Shards, "--shards", "3".to_owned())],
        insecure: false,
    };
    let raw = RawConfig::load(inputs, &mut bad);
    std::fs::remove_file(&path).unwrap();
    let config = raw.check(&machine(), bad).ok().unwrap();
    assert_eq!(config.shards, 3);
    assert_eq!(config.node.drain, Duration::from_secs(2));
    assert_eq!(config.node.node_name, "file");
    assert_eq!(raw.source(Key::Shards).to_string(), "--shards");
    assert_eq!(raw.source(Key::Drain).to_string(), "WEIR_DRAIN");
}

#[test]
fn a_faulty_value_is_a_fault_also_behind_another() {
    let mut bad = Vec::new();
    let mut raw = RawConfig::parse("shards = \"many\"\n", Path::new("w.toml"), &mut bad);
    let variables = vec![("WEIR_SHARDS".to_owned(), "2".to_owned())];
    crate::config::environment::read(&mut raw, variables, &mut bad);
    let found = raw.check(&machine(), bad).err().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    let wanted = "w.toml:1: shards: is \"many\", must be a whole number";
    assert!(found[0].to_string().starts_with(wanted), "{found:?}");
}

#[test]
fn the_memory_of_all_queues_holds_one_of_them() {
    let memory = |value: &str| check(&format!("[limits]\nmemory = {value}\n"));
    for (value, bytes) in
        [("0", 2 << 30), ("\"0\"", 2 << 30), ("262144", 1 << 18), ("\"1GiB\"", 1 << 30)]
    {
        assert_eq!(memory(value).ok().unwrap().node.memory_max, bytes, "{value}");
    }
    for bad in [
        "-1",
        "1",
        "262143",
        "\"64KiB\"",
        "\"1.5GiB\"",
        "\"25%\"",
        "\"much\"",
        "true",
        "\"20000GiB\"",
    ] {
        let found = memory(bad).err().unwrap_or_default();
        assert_eq!(found.len(), 1, "{bad}: {found:?}");
        assert!(found[0].starts_with("w.toml:2: limits.memory: "), "{bad}: {found:?}");
    }
    let small = Machine { memory: 4 << 20, ..machine() };
    let raw =
        RawConfig::parse("limits.queue_bytes = \"2MiB\"", Path::new("w.toml"), &mut Vec::new());
    assert_eq!(raw.check(&small, Vec::new()).ok().unwrap().node.memory_max, 2 << 20);
}

#[test]
fn all_problems_are_reported_together() {
    let found = faults(
        "listen = \"here\"\nshards = 200\nnope = 1\n[limits]\nmessage_bytes = 10\n\
         queue_events = 0\n[http]\nping = \"5s\"\norigins = [\"example.org\"]\n\
         [log]\nlevel = \"loud\"\n",
    );
    let wanted = [
        "w.toml:1: listen: is \"here\"",
        "w.toml:2: shards: is 200, must be a whole number from 0 to 128",
        "w.toml:3: nope: no such setting",
        "w.toml:5: limits.message_bytes: is 10, must be bytes from 1KiB to 64MiB",
        "w.toml:6: limits.queue_events: is 0, must be",
        "w.toml:8: http.ping: http.ping_timeout must be less than http.ping",
        "w.toml:9: http.origins: has \"example.org\"",
        "w.toml:11: log.level: has \"loud\"",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (line, text) in found.iter().zip(wanted) {
        assert!(line.starts_with(text), "{line}");
    }
}

#[test]
fn faults_come_in_the_order_of_what_is_read() {
    let text = "[[namespace]]\nslow = 1\n[no]\n[limits]\nqueue_bytes = 1\n";
    let mut bad = Vec::new();
    let mut raw = RawConfig::parse(text, Path::new("w.toml"), &mut bad);
    let variables = [("WEIR_SHARDS", "x"), ("WEIR_NO__SUCH", "1"), ("WEIR_DRAIN", "x")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    crate::config::environment::read(&mut raw, variables.into(), &mut bad);
    let here = crate::config::value::RawValue::Text("here".to_owned());
    raw.set(Key::Listen, here, Source::Flag("--listen"));
    let found = raw.check(&machine(), bad).err().unwrap();
    let sources: Vec<_> = found.iter().map(|one| one.source.to_string()).collect();
    let wanted = [
        "w.toml:1",
        "w.toml:2",
        "w.toml:3",
        "w.toml:5",
        "WEIR_DRAIN",
        "WEIR_NO__SUCH",
        "WEIR_SHARDS",
        "--listen",
    ];
    assert_eq!(sources, wanted, "{found:#?}");
}

#[test]
fn one_address_or_a_list_is_listened_on() {
    let two = ["127.0.0.1:1", "[::1]:2"].map(|one| one.parse().unwrap());
    for listen in [
        "[\"127.0.0.1:1\", \"[::1]:2\"]",
        "[\n  \"localhost:1\",\n  \"[::1]:2\",\n]",
        "\"127.0.0.1:1, [::1]:2\"",
    ] {
        assert_eq!(check(&format!("listen = {listen}\n")).unwrap().listen, two, "{listen}");
    }
    let mut links = RawConfig::parse(
        "listen = [\"[fe80::1%2]:1\", \"[fe80::1%3]:1\"]\n",
        Path::new("w.toml"),
        &mut Vec::new(),
    );
    links.insecure = true;
    assert!(links.check(&machine(), Vec::new()).is_ok(), "one address on two links is two");
    let inputs = Inputs {
        environment: vec![("WEIR_LISTEN".to_owned(), "127.0.0.1:1,[::1]:2".to_owned())],
        ..Inputs::default()
    };
    let raw = RawConfig::load(inputs, &mut Vec::new());
    assert_eq!(raw.check(&machine(), Vec::new()).ok().unwrap().listen, two);
    let inputs = Inputs {
        flags: vec![(Key::Listen, "--listen", "127.0.0.1:1,[::1]:2".to_owned())],
        ..Inputs::default()
    };
    let raw = RawConfig::load(inputs, &mut Vec::new());
    assert_eq!(raw.check(&machine(), Vec::new()).ok().unwrap().listen, two);
}

#[test]
fn every_fault_of_the_addresses_is_reported_with_the_others() {
    let found = faults(
        "shards = 200\nlisten = [\"127.0.0.1:1\", \"here\", \"unix:/run/w.sock\", \"unix:\", \
         \"0.0.0.0:1\", \"127.0.0.1:2\", \"localhost:1\", \"[::ffff:127.0.0.1]:2\", \"[::]:1\"]\n",
    );
    let wanted = [
        "w.toml:1: shards: is 200, must be",
        "w.toml:2: listen: has \"here\", must be an address and a port, like \"127.0.0.1:8080\"",
        "w.toml:2: listen: has \"unix:\", must name a file behind unix:",
        "w.toml:2: listen: \"0.0.0.0:1\" is not loopback",
        "w.toml:2: listen: has \"localhost:1\", which stands there already",
        "w.toml:2: listen: has \"[::ffff:127.0.0.1]:2\", which stands there already",
        "w.toml:2: listen: \"[::]:1\" is not loopback",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (line, text) in found.iter().zip(wanted) {
        assert!(line.starts_with(text), "{line}");
    }
    for (listen, problem) in [
        ("[\"unix:a\", \"unix:a\"]", "has \"unix:a\", which stands there already"),
        ("\"8080\"", "is \"8080\", must be an address and a port, like"),
        ("[\"127.0.0.1:1\", \"\"]", "has \"\", must be an address and a port, like"),
        ("[]", "is empty, must have an address and a port at least"),
        ("\"\"", "is empty, must have an address and a port at least"),
        ("[\"127.0.0.1:1\", 8080]", "is a mixed list, must be an address and a port, or a list"),
        ("8080", "is 8080, must be an address and a port, or a list of them"),
    ] {
        let found = faults(&format!("listen = {listen}\n"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("w.toml:1: listen: {problem}")), "{found:?}");
    }
}

#[test]
fn a_queue_holds_at_least_one_message() {
    let found = faults("[limits]\nmessage_bytes = \"1MiB\"\n");
    assert!(
        found[0].starts_with("default: limits.queue_bytes: must hold one message"),
        "{found:?}"
    );
    assert!(check("[limits]\nmessage_bytes = \"1MiB\"\nqueue_bytes = \"1MiB\"\n").is_ok());
}

#[test]
fn patterns_are_closed_unless_a_namespace_opens_them() {
    let open = |text: &str, prefix: &str| {
        check(text).is_ok_and(|config| config.node.policies.of_prefix(prefix).is_ok())
    };
    let one = "[[namespace]]\nname = \"a\"\npatterns = true\n";
    assert!(!open("", "a:") && open(one, "a:") && !open(one, "b:"));
    let most = "[defaults]\npatterns = true\n[[namespace]]\nname = \"b\"\npatterns = false\n";
    assert!(open(most, "a:") && !open(most, "b:") && open(most, "c/"));
    let found = faults("[[namespace]]\nname = \"a\"\npatterns = \"yes\"\n");
    assert_eq!(found, ["w.toml:3: namespace.patterns: is \"yes\", must be true or false"]);
}

#[test]
fn namespaces_inherit_and_are_checked() {
    assert!(check("[[namespace]]\nname = \"a\"\n[[namespace]]\nname = \"b\"\n").is_ok());
    let found = faults(
        "[[namespace]]\nslow = \"newest\"\n[[namespace]]\nname = \"a\"\n[[namespace]]\n\
         name = \"a\"\nslow_choice = 1\n[[namespace]]\nname = \"a:b\"\nslow = \"now\"\n\
         [[namespace]]\nname = \"c\"\nslow = \"no\"\n",
    );
    let wanted = [
        "w.toml:1: namespace.name: is missing",
        "w.toml:2: namespace.slow: is \"newest\", must be one of drop_oldest, drop_newest, latest, disconnect",
        "w.toml:5: namespace.name: \"a\" is configured twice",
        "w.toml:7: namespace.slow_choice: is 1, must be true or false",
        "w.toml:9: namespace.name: is \"a:b\": must end before the ':'",
        "w.toml:10: namespace.slow: is \"now\", must be one of drop_oldest, drop_newest, latest, disconnect",
        "w.toml:13: namespace.slow: is \"no\", must be one of drop_oldest, drop_newest, latest, disconnect",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (line, text) in found.iter().zip(wanted) {
        assert!(line.starts_with(text), "{line}");
    }
}

#[test]
fn namespaces_have_a_bound() {
    let of = |count: usize| -> String {
        (0..count).map(|n| format!("[[namespace]]\nname = \"n{n}\"\n")).collect()
    };
    assert!(check(&of(10_000)).is_ok());
    let wanted = "w.toml:20001: namespace: is one of 10001, there may be 10000";
    assert_eq!(faults(&of(10_001)), [wanted]);
}

#[test]
fn zero_is_never_where_the_comment_says_so() {
    let config = check("[limits]\nslow_disconnect = 0\n").unwrap();
    assert_eq!(config.node.slow_disconnect, None);
    assert!(!faults("[http]\nping = 0\n").is_empty());
}

#[test]
fn an_origin_is_written_as_browsers_send_it() {
    let of = |origin: &str| faults(&format!("http.origins = [{origin:?}]\n"));
    for good in ["*", "https://a.example", "http://a.example:8080", "https://[::1]:8443"] {
        assert_eq!(of(good), [""; 0], "{good}");
    }
    for (bad, sent) in [
        ("https://a.example:443", "https://a.example"),
        ("http://a.example:80", "http://a.example"),
    ] {
        let wanted =
            format!("w.toml:1: http.origins: has {bad:?}, which browsers send as {sent:?}");
        assert_eq!(of(bad), [wanted]);
    }
    for bad in ["https://b\u{fc}cher.example", "https://u@a.example", "a.example", "https://a/"] {
        assert!(of(bad).len() == 1 && of(bad)[0].contains("an origin is like"), "{bad}");
    }
}

#[test]
fn every_directive_of_the_log_is_one_that_is_followed() {
    let level = |text: &str| check(&format!("log.level = {text:?}\n")).map(|it| it.log.level);
    for (written, taken) in [
        ("info", "info"),
        (" info ", "info"),
        ("warn, weir::shard=debug", "warn,weir::shard=debug"),
        ("WARN", "WARN"),
    ] {
        assert_eq!(level(written).as_deref(), Ok(taken), "{written:?}");
    }
    for bad in ["", "info,", "weir", "weir=", "=info", "weir=debug=info", "weir[=info", "a b=info"]
    {
        let found = level(bad).unwrap_err();
        assert!(
            found.len() == 1 && found[0].contains("a level is one of off"),
            "{bad:?}: {found:?}"
        );
    }
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let warnings = |text: &str| -> Vec<String> {
        check(text).unwrap().warnings.iter().map(ToString::to_string).collect()
    };
    let path =
        "w.toml:1: store.path: names a file that is not used: it needs store.kind = \"sqlite\"";
    assert_eq!(warnings("store.path = \"a.db\"\n"), [path]);
    assert_eq!(warnings("store.path = \"weir.db\"\n"), [""; 0], "as the printed file has it");
    let rules = "[defaults]\npublish = [\"user\", \"role:a\"]\nsubscribe = [\"user\", \"api\"]\n\
                 [[namespace]]\nname = \"n\"\nsubscribe = [\"token\"]\n";
    let found = warnings(rules);
    let begin = ["w.toml:2: defaults.publish: lets", "w.toml:6: namespace.subscribe: lets"];
    assert_eq!(found.len(), begin.len(), "{found:?}");
    for (line, begin) in found.iter().zip(begin) {
        assert!(line.starts_with(begin), "{found:?}");
    }
}

#[test]
fn only_loopback_is_taken_without_insecure() {
    for (listen, exposed) in [
        ("127.0.0.1:1", false),
        ("127.9.9.9:1", false),
        ("[::1]:1", false),
        ("[::ffff:127.0.0.1]:1", false),
        ("localhost:1", false),
        ("0.0.0.0:1", true),
        ("[::]:1", true),
        ("192.168.1.1:1", true),
    ] {
        let text = format!("listen = {listen:?}");
        let found = faults(&text);
        assert_eq!(found.iter().any(|one| one.contains("--insecure")), exposed, "{found:?}");
        assert_eq!(found.len(), usize::from(exposed), "{found:?}");
        let mut raw = RawConfig::parse(&text, Path::new("w.toml"), &mut Vec::new());
        raw.insecure = true;
        assert!(raw.check(&machine(), Vec::new()).is_ok(), "{listen}");
    }
}

#[test]
fn the_rest_may_be_served_elsewhere() {
    let config = check("admin_listen = [\"127.0.0.1:1\", \"unix:/run/w.sock\"]\n").unwrap();
    assert_eq!(config.admin_listen.len(), 2);
    assert_eq!(check("").unwrap().admin_listen, []);
    let found = faults("admin_listen = [\"0.0.0.0:1\", \"127.0.0.1:8080\"]\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("without auth.api_keys_file nobody elsewhere may"), "{found:?}");
    assert!(found[1].contains("\"127.0.0.1:8080\", which stands in listen already"), "{found:?}");
}

#[test]
fn proxies_are_addresses_or_networks() {
    let config = check("http.trusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n").unwrap();
    assert!(config.http.proxies.believes("10.1.1.1".parse().unwrap()));
    assert!(!config.http.proxies.believes("127.0.0.1".parse().unwrap()));
    let found = faults("http.trusted_proxies = [\"10.0.0.1\", \"nginx\"]\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("has \"nginx\", a proxy is an address or a network"), "{found:?}");
}

#[test]
fn tls_needs_a_certificate_and_its_key() {
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        let found = faults(&format!("tls.{one} = \"/nowhere\"\n"));
        assert_eq!(found.len(), 1, "{found:?}");
        let wanted = format!("tls.{one}: is set, and TLS needs both: set tls.{other}, too");
        assert!(found[0].ends_with(&wanted), "{found:?}");
    }
    let found = faults("tls.cert = \"/nowhere/a\"\ntls.key = \"/nowhere/b\"\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("tls.cert: names \"/nowhere/a\", which cannot be read"), "{found:?}");
    assert!(found[1].contains("tls.key: names \"/nowhere/b\", which cannot be read"), "{found:?}");
}

#[test]
fn limits_that_contradict_each_other_are_named() {
    assert_eq!(check("").unwrap().node.limits, crate::shard::LimitOptions::default());
    let of = |text: &str| check(&format!("[limits]\n{text}")).map(|config| config.node.limits);
    let set = of("connections_per_ip = 5\nconnects_per_second_per_ip = 6\n\
                  commands_per_second = 7\nhttp_requests_per_second = 8\n");
    let set = set.unwrap();
    assert_eq!((set.connections_per_ip, set.connects_per_second_per_ip), (5, 6));
    assert_eq!((set.commands_per_second, set.http_requests_per_second), (7, 8));
    let beyond = of("connections = 10\nconnections_per_ip = 11\n").unwrap_err();
    let wanted = "w.toml:3: limits.connections_per_ip: is 11, more than limits.connections (10), so \
                  that it never counts: say less, or 0 for no limit";
    assert_eq!(beyond, [wanted]);
    let users = of("connections = 10\nconnections_per_user = 10\n").unwrap_err();
    assert!(users.len() == 1 && users[0].contains("without a key"), "{users:?}");
    let unnamed = "connections_per_user = 10\n[auth]\nhmac_secret_file = \"\"\n";
    assert_eq!(of(unnamed).unwrap_err().len(), 1, "a key that is not named is none");
    for bad in ["commands_per_second = -1", "connections_per_ip = \"many\""] {
        assert_eq!(of(bad).unwrap_err().len(), 1, "{bad}");
    }
}

/// What is wrong for every setting, and what is for those of one kind.
#[test]
fn no_setting_takes_a_value_of_another_type() {
    for key in Key::ALL {
        let of_kind: &[&str] = match key.row().kind {
            Kind::Addresses | Kind::List => &["true", "5"],
            Kind::Bool => &["1", "\"yes\"", "[\"true\"]"],
            Kind::Choice(_) => &["5", "true", "\"no such word\""],
            Kind::Duration(..) => &["true", "-1", "\"5 parsecs\"", "[\"5s\"]"],
            Kind::Integer(..) => &["true", "-1", "\"many\"", "[\"5\"]"],
            Kind::Size(..) => &["true", "-1", "\"5 acres\"", "[\"5\"]"],
            Kind::Text => &["true", "5", "[\"a\"]"],
        };
        for wrong in ["1.5", "2026-11-21", "[1]", "[[\"a\"]]", "{ a = 1 }"].iter().chain(of_kind) {
            let found = faults(&format!("{} = {wrong}\n", key.name()));
            let named = format!("w.toml:1: {}", key.name());
            assert_eq!(found.len(), 1, "{} = {wrong}: {found:?}", key.name());
            assert!(found[0].starts_with(&named), "{} = {wrong}: {found:?}", key.name());
        }
    }
}

#[test]
fn a_setting_that_is_nearly_right_is_named_with_the_right_one() {
    for key in Key::ALL {
        let name = key.name();
        let short = &name[..name.len() - 1];
        if Key::find(short).is_some() {
            continue;
        }
        let own = name.rsplit('.').next().unwrap();
        let elsewhere = faults(&format!("[log]\n{own} = 1\n"));
        if Key::find(&format!("log.{own}")).is_none() {
            let named = elsewhere.len() == 1 && elsewhere[0].contains("the nearest is ");
            assert!(named && elsewhere[0].ends_with(own), "{own}: {elsewhere:?}");
        }
        let found = faults(&format!("{short} = 1\n"));
        let wanted = format!("w.toml:1: {short}: no such setting; the nearest is {name}");
        assert_eq!(found, [wanted], "{short}");
    }
}

#[test]
fn values_that_contradict_each_other_are_faults_of_one_of_them() {
    for (text, key) in [
        ("[http]\nping = \"5s\"\nping_timeout = \"5s\"\n", "http.ping_timeout"),
        ("[limits]\nmessage_bytes = \"2MiB\"\nqueue_bytes = \"1MiB\"\n", "limits.queue_bytes"),
        ("[limits]\nmemory = \"64KiB\"\n", "limits.memory"),
        ("[defaults]\ndurable = true\n", "durable"),
        ("[[namespace]]\nname = \"a\"\ndurable = true\n", "durable"),
        ("[auth]\nrequired = true\n", "auth.required"),
        ("[auth]\naudience = \"weir\"\n", "auth.audience"),
        ("[http]\ntrusted_proxies = [\"10.0.0.1\", \"0.0.0.0/0\"]\n", "http.trusted_proxies"),
        ("[http]\ntrusted_proxies = [\"::/0\"]\n", "http.trusted_proxies"),
        ("[defaults]\npublish = [\"nobody\", \"user\"]\n", "defaults.publish"),
    ] {
        let found = faults(text);
        assert!(found.iter().any(|fault| fault.contains(key)), "{text}: {found:?}");
    }
}

/// As a variable that a container's template sets to nothing.
#[test]
fn an_empty_text_is_as_if_it_were_not_there() {
    let keys = Key::ALL.into_iter().filter(|key| {
        let row = key.row();
        row.kind == Kind::Text && row.default.is_empty() && key.in_namespace().is_none()
    });
    let (mut seen, none) = (0, check("").unwrap());
    for key in keys {
        let mut raw = RawConfig::default();
        let empty = crate::config::value::RawValue::Text(String::new());
        raw.set(key, empty, Source::Environment(key.variable()));
        let config = raw.check(&machine(), Vec::new());
        let config = config.unwrap_or_else(|bad| panic!("{}: {bad:?}", key.name()));
        assert_eq!(raw.text(key), None);
        assert_eq!(config.node.node_name, none.node.node_name);
        assert!(config.node.auth.verifier.is_none() && config.http.keys.is_none());
        assert!(config.http.tls.is_none());
        seen += 1;
    }
    assert!(seen >= 9, "{seen}");
}
