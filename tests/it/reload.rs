//! Settings that change while the gateway runs: by SIGHUP, and what becomes of those who are there.

use std::collections::BTreeSet;
use std::fs;
use std::task::Poll;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Client, Gateway, scratch, wait_for};
use crate::raw::{Answer, Raw, handshake_request, http, sum};

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 0.5
}

/// The next message that is neither an event nor about who comes and goes.
fn told(client: &mut Client) -> Value {
    loop {
        let message = client.next();
        if !["event", "join", "leave"].contains(&message["type"].as_str().unwrap()) {
            return message;
        }
    }
}

fn unsubscribed(client: &mut Client) -> (String, String) {
    let message = told(client);
    assert_eq!(message["type"], "unsubscribed", "{message}");
    let text = |name: &str| message[name].as_str().unwrap().to_owned();
    (text("channel"), text("code"))
}

#[test]
fn subscriptions_are_held_against_the_rules_that_come() {
    let gateway = Gateway::configured("shards = 2\n[defaults]\npatterns = true\n");
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&gateway)).collect();
    for client in &mut clients {
        for channel in ["closed:a", "closed:*", "open:a", "open:*", "half:a", "half:*", "plain"] {
            client.subscribe(channel);
        }
    }
    let rules = "shards = 2\n[[namespace]]\nname = \"closed\"\nsubscribe = [\"user\"]\n\
        [[namespace]]\nname = \"open\"\npatterns = true\npublish = [\"api\"]\n\
        [[namespace]]\nname = \"half\"\npatterns = false\n";
    assert!(gateway.reload(rules));
    for client in &mut clients {
        let mut ended: Vec<_> = (0..3).map(|_| unsubscribed(client)).collect();
        ended.sort();
        let wanted = ["closed:*", "closed:a", "half:*"];
        assert_eq!(ended, wanted.map(|channel| (channel.to_owned(), "forbidden".to_owned())));
        client.expect_nothing();
    }
    assert!(close(gateway.metric("weir_subscriptions_revoked_total"), 18.0));
    assert!(close(gateway.metric("weir_subscriptions{"), 24.0));
    // What is new holds for what comes, over every door.
    let refused = clients[0].ask(json!({"type": "publish", "channel": "open:a", "data": 1}));
    assert_eq!(refused["code"], "forbidden", "{refused}");
    let refused = clients[0].ask(json!({"type": "subscribe", "channel": "closed:b"}));
    assert_eq!(refused["code"], "forbidden", "{refused}");
    for (channel, count) in [("closed:a", 0), ("half:a", 1), ("open:a", 1), ("plain", 1)] {
        let body = json!({"channel": channel, "data": 7}).to_string();
        assert_eq!(gateway.post("/api/v1/publish", &body).status, 200);
        gateway.wait_for_mail();
        for client in &mut clients {
            for _ in 0..count {
                assert_eq!(client.expect("event")["channel"], channel);
            }
            client.expect_nothing();
        }
    }
    // A namespace that does not exist any more.
    assert!(gateway.reload("shards = 2\nstrict_namespaces = true\n"));
    for client in &mut clients {
        let mut ended: Vec<_> = (0..3).map(|_| unsubscribed(client)).collect();
        ended.sort();
        let wanted = ["half:a", "open:*", "open:a"];
        assert_eq!(ended, wanted.map(|channel| (channel.to_owned(), "unknown_channel".to_owned())));
        client.expect_nothing();
    }
}

#[test]
fn faulty_settings_are_refused_whole_and_every_fault_is_logged() {
    let gateway = Gateway::configured("[defaults]\nhistory = 5\n");
    let mut client = Client::connect(&gateway);
    client.subscribe("a");
    let started = gateway.metric("weir_config_last_reload_success_timestamp_seconds");
    assert!(started > 1e9, "the settings of the start were read then");
    let faulty = "[defaults]\nhistory = \"many\"\nsubscribe = [\"user\"]\nslo = \"latest\"\n\
        [auth]\nhmac_secret_file = \"/nowhere/at/all\"\n";
    assert!(!gateway.reload(faulty));
    let log = gateway.log();
    for text in [
        ":2: defaults.history: ",
        ":4: defaults.slo: no such setting; the nearest is defaults.slow",
        ":6: auth.hmac_secret_file: names \\\"/nowhere/at/all\\\", which cannot be read",
        "there are 3 faults in the settings: nothing of them is taken",
    ] {
        assert!(log.contains(text), "{text} in {log}");
    }
    assert!(!gateway.reload("this is no TOML"));
    fs::remove_file(gateway.config()).unwrap();
    assert!(!gateway.reload_files(), "a file that is gone is a fault as well");
    client.expect_nothing();
    let count =
        |result: &str| gateway.metric(&format!("weir_config_reloads_total{{result=\"{result}\"}}"));
    assert!(close(count("refused"), 3.0) && close(count("ok"), 0.0));
    for n in 1..=5 {
        gateway.post("/api/v1/publish", &json!({"channel": "a", "data": n}).to_string());
    }
    let history = gateway.get("/api/v1/channels/a/history").json();
    assert_eq!(history["events"].as_array().unwrap().len(), 5, "as before: {history}");
    assert!(gateway.reload("[defaults]\nhistory = 2\n"));
    let history = gateway.get("/api/v1/channels/a/history").json();
    assert_eq!(history["events"].as_array().unwrap().len(), 2, "at once: {history}");
    assert!(close(count("refused"), 3.0) && close(count("ok"), 1.0));
    let last = gateway.metric("weir_config_last_reload_success_timestamp_seconds");
    assert!(last >= started, "{last}");
}

#[test]
fn what_needs_a_restart_stays_with_a_warning() {
    let gateway = Gateway::configured("shards = 2\n[[namespace]]\nname = \"a\"\n");
    let store = scratch(".db");
    // `listen` is a flag of the test's, which wins over the file.
    let others = format!(
        "shards = 3\n[store]\nkind = \"sqlite\"\npath = {store:?}\n\
         [[namespace]]\nname = \"a\"\ndurable = true\nhistory = 3\n"
    );
    assert!(gateway.reload(&others));
    let log = gateway.log();
    for setting in ["shards", "store.kind", "durable of the namespace a"] {
        let line = format!("{setting} is another one, which needs a restart: the old value stays");
        assert!(log.contains(&line), "{line} in {log}");
    }
    assert!(!log.contains("listen is another one"), "{log}");
    let stats = gateway.get("/api/v1/stats").json();
    assert_eq!(stats["shards"].as_array().unwrap().len(), 2, "{stats}");
    assert_eq!(stats["store"]["kind"], "memory");
    assert!(!store.exists());
    // The rest of it is in force.
    let mut client = Client::connect(&gateway);
    for n in 0..4 {
        client.publish("a:1", &json!(n));
    }
    let history = client.ask(json!({"type": "history", "channel": "a:1"}));
    assert_eq!(history["events"].as_array().unwrap().len(), 3, "{history}");
}

fn handshake(gateway: &Gateway, origin: &str) -> Answer {
    let mut raw = Raw::open(gateway.addr);
    raw.send(handshake_request(gateway.addr, &[("Origin", origin)]).as_bytes());
    raw.answer()
}

#[test]
fn limits_change_for_those_who_are_there() {
    let gateway = Gateway::configured("node = \"one\"\n");
    let mut client = Client::connect(&gateway);
    assert_eq!(client.welcome["node"], "one");
    for n in 0..3 {
        client.subscribe(&format!("room:{n}"));
    }
    let small = "node = \"two\"\n[limits]\nmessage_bytes = 1024\nconnections = 2\n\
        subscriptions_per_connection = 2\n[http]\norigins = [\"https://a.b\"]\n";
    assert!(gateway.reload(small));
    let other = Client::connect(&gateway);
    assert_eq!(
        (&other.welcome["node"], &other.welcome["max_message"]),
        (&json!("two"), &json!(1024))
    );
    assert_eq!(handshake(&gateway, "https://a.b").error(503), "overloaded");
    let refused = client.ask(json!({"type": "subscribe", "channel": "room:9"}));
    assert_eq!(refused["code"], "limit_exceeded", "{refused}");
    let large = json!({"type": "publish", "channel": "room:1", "data": "x".repeat(2_000)});
    client.send(&large);
    assert_eq!(client.ended().code, Some(1009));
    gateway.wait_for_connections(1);
    assert_eq!(handshake(&gateway, "https://a.b").status, 101);
    assert!(gateway.reload("node = \"two\"\n"));
    assert_eq!(handshake(&gateway, "https://a.b").error(403), "forbidden");
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    client.send(&large);
    client.expect("event");
    // A rate holds for who came without one: at most two at once, and one more each second.
    assert!(gateway.reload("[limits]\ncommands_per_second = 1\n"));
    let answers: Vec<_> = (0..8).map(|_| client.ask(json!({"type": "ping"}))).collect();
    assert!(answers.iter().any(|answer| answer["code"] == "rate_limited"), "{answers:?}");
    assert!(gateway.reload("[limits]\ncommands_per_second = 0\n"));
    for _ in 0..8 {
        client.expect_nothing();
    }
}

/// Its timer was set for minutes.
#[test]
fn whoever_is_there_is_pinged_as_often_as_is_said_now() {
    let gateway = Gateway::configured("[http]\nping = \"9m\"\n");
    let _silent = Client::connect(&gateway);
    assert!(gateway.reload("[http]\nping = \"100ms\"\nping_timeout = \"50ms\"\n"));
    wait_for("a client that answers no ping to go", || {
        close(gateway.metric("weir_connections_closed_total{code=\"4002\"}"), 1.0).then_some(())
    });
}

/// The authors of two signals that a client is told of next, which have this data.
fn signals(client: &mut Client, data: &Value) -> BTreeSet<String> {
    let two = (0..2).map(|_| {
        let message = told(client);
        assert_eq!((&message["type"], &message["data"]), (&json!("signal"), data), "{message}");
        message["from"]["client"].as_str().unwrap().to_owned()
    });
    two.collect()
}

#[test]
fn presence_and_signals_begin_and_end_for_those_who_are_there() {
    let off = "shards = 2\n[[namespace]]\nname = \"room\"\n";
    let gateway = Gateway::configured(off);
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(&gateway)).collect();
    for client in &mut clients {
        client.subscribe("room:1");
    }
    let on = format!("{off}presence = true\nsignals = true\npresence_linger = \"0s\"\n");
    assert!(gateway.reload(&on));
    let members = || {
        let presence = gateway.get("/api/v1/channels/room:1/presence");
        (presence.status == 200).then(|| presence.json()["clients"].as_u64().unwrap())
    };
    assert_eq!(members(), Some(6), "those who were there count");
    let authors: BTreeSet<_> = clients[..2].iter().map(|client| client.id.clone()).collect();
    for client in &mut clients[..2] {
        client.send(&json!({"type": "signal", "channel": "room:1", "name": "n", "data": 1}));
    }
    for client in &mut clients[2..] {
        assert_eq!(signals(client, &json!(1)), authors);
    }
    // All of it ends: whoever was shown a signal hears its end, on every shard.
    assert!(gateway.reload(off));
    for client in &mut clients[2..] {
        assert_eq!(signals(client, &Value::Null), authors);
    }
    assert_eq!(members(), None);
    assert!(close(gateway.metric("weir_rooms"), 0.0));
    let refused = clients[3].ask(json!({"type": "presence", "channel": "room:1"}));
    assert_eq!(refused["code"], "not_enabled", "{refused}");
    assert!(gateway.reload(&on));
    drop(clients.pop());
    wait_for("the one who has gone to be taken off", || (members() == Some(5)).then_some(()));
    drop(clients);
    wait_for("the room to be freed", || close(gateway.metric("weir_rooms"), 0.0).then_some(()));
}

#[test]
fn a_slow_policy_that_nobody_has_chosen_changes_with_its_namespace() {
    let small = "[limits]\nqueue_events = 16\n[[namespace]]\nname = \"a\"\n";
    let gateway = Gateway::configured(small);
    let mut publisher = Client::connect(&gateway);
    let (mut slow, mut chosen) =
        (Client::connect_narrow(&gateway), Client::connect_narrow(&gateway));
    slow.subscribe("a:1");
    chosen.ask(json!({"type": "subscribe", "channel": "a:1", "slow": "drop_newest"}));
    assert!(gateway.reload(&format!("{small}slow = \"disconnect\"\n")));
    let data = json!("x".repeat(32_000));
    wait_for("the slow one to be cut", || {
        publisher.publish("a:1", &data);
        close(gateway.metric("weir_connections_closed_total{code=\"4000\"}"), 1.0).then_some(())
    });
    wait_for("the other to lose what comes", || {
        publisher.publish("a:1", &data);
        (gateway.metric("weir_events_dropped_total{policy=\"drop_newest\"}") > 0.5).then_some(())
    });
    assert!(close(gateway.metric("weir_connections_closed_total{code=\"4000\"}"), 1.0));
    // Who has chosen a policy keeps it.
    gateway.wait_for_connections(2);
    // Unless it may not.
    assert!(gateway.reload(&format!("{small}slow = \"disconnect\"\nslow_choice = false\n")));
    wait_for("the other to be cut", || {
        publisher.publish("a:1", &data);
        close(gateway.metric("weir_connections_closed_total{code=\"4000\"}"), 2.0).then_some(())
    });
}

#[test]
fn the_log_changes_its_level_and_its_form() {
    let gateway = Gateway::configured("[log]\nlevel = \"info\"\n");
    assert!(gateway.reload("[log]\nlevel = \"off\"\n"), "said before it is silent");
    let silent = gateway.log();
    gateway.signal(Signal::HUP);
    wait_for("another reload", || {
        (gateway.metric("weir_config_reloads_total{result=\"ok\"}") > 1.5).then_some(())
    });
    assert_eq!(gateway.log(), silent);
    fs::write(gateway.config(), "[log]\nlevel = \"warn\"\n").unwrap();
    gateway.signal(Signal::HUP);
    wait_for("the level to be in force", || {
        (gateway.metric("weir_config_reloads_total{result=\"ok\"}") > 2.5).then_some(())
    });
    assert!(!gateway.reload("[log]\nlevel = \"loud\"\n"), "faults are logged again");
}

/// A SIGHUP while it starts waits for the start, and one while it drains changes nothing.
#[test]
fn a_hangup_never_ends_it() {
    let secret = scratch(".fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &secret, 0o600.into()).unwrap();
    let toml = format!("drain = \"2s\"\n[auth]\nhmac_secret_file = {secret:?}\n");
    let starting = Gateway::starting(&toml);
    // It reads its settings, so it has the handler already: bit 0 of what is caught.
    wait_for("the handler", || {
        let status = format!("/proc/{}/status", starting.gateway.pid());
        let status = fs::read_to_string(status).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim();
        (u64::from_str_radix(caught, 16).ok()? & 1 == 1).then_some(())
    });
    for _ in 0..20 {
        starting.gateway.signal(Signal::HUP);
    }
    let key = "k".repeat(40);
    fs::write(&secret, &key).unwrap();
    let mut gateway = starting.started();
    // What came meanwhile is one reload, which reads the file again.
    fs::write(&secret, &key).unwrap();
    wait_for("the reload that was asked for", || {
        (gateway.metric("weir_config_reloads_total{result=\"ok\"}") > 0.5).then_some(())
    });
    let mut client = Client::connect(&gateway);
    gateway.signal(Signal::TERM);
    wait_for("readyz to say 503", || (gateway.get("/readyz").status == 503).then_some(()));
    gateway.signal(Signal::HUP);
    fs::write(&secret, &key).unwrap();
    wait_for("it to be refused", || {
        gateway.log().contains("the gateway is draining").then_some(())
    });
    assert_eq!(client.ended().code, Some(4001));
    assert_eq!(gateway.ended().code(), Some(0));
}

#[test]
fn a_program_that_embeds_it_reloads_it_too() {
    let config = |shards| {
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        weir::Config { listen, shards, ..weir::Config::default() }
    };
    let gateway = weir::Gateway::builder().config(config(1)).build().unwrap();
    let handle = gateway.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reloaded = runtime.block_on(handle.reload(config(1))).unwrap();
    assert_eq!(reloaded, weir::Reloaded::default());
    let reloaded = runtime.block_on(handle.reload(config(2))).unwrap();
    let stays: Vec<_> = reloaded.warnings.iter().map(weir::Warning::setting).collect();
    assert_eq!(stays, ["shards"]);
    drop(gateway);
    let refused = runtime.block_on(handle.reload(config(1)));
    assert_eq!(refused, Err(weir::ReloadError::Draining));
}

/// A program that has no more patience: what was begun is done whole, in the store as well.
#[test]
fn a_reload_that_is_given_up_is_carried_out() {
    use weir::config::{Machine, RawConfig};
    let config = |text: &str| {
        let mut bad = Vec::new();
        let raw = RawConfig::parse(text, "w.toml".as_ref(), &mut bad);
        raw.check(&Machine::detect(), bad).ok().unwrap()
    };
    let gateway = weir::Gateway::builder();
    let gateway = gateway.config(config("listen = \"127.0.0.1:0\"\n")).build().unwrap();
    let (handle, addr) = (gateway.handle(), gateway.local_addrs()[0]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let publish = || {
        let json = [("Content-Type", "application/json")];
        let body = br#"{"channel":"a","data":1}"#;
        assert_eq!(http(addr, "POST", "/api/v1/publish", &json, body).status, 200);
    };
    let kept = || {
        let history = http(addr, "GET", "/api/v1/channels/a/history", &[], b"").json();
        history["events"].as_array().map(Vec::len)
    };
    publish();
    assert_eq!(kept(), None, "nothing is kept");
    let given_up = runtime.block_on(async {
        let config = config("listen = \"127.0.0.1:0\"\ndefaults.history = 5\n");
        let mut reload = std::pin::pin!(handle.reload(config));
        std::future::poll_fn(|cx| Poll::Ready(reload.as_mut().poll(cx).is_pending())).await
    });
    assert!(given_up);
    // It is carried out as the runtime goes on.
    wait_for("the reload", || {
        runtime.block_on(tokio::task::yield_now());
        let scrape = http(addr, "GET", "/metrics", &[], b"").text();
        (sum(&scrape, "weir_config_reloads_total{result=\"ok\"}") > 0.5).then_some(())
    });
    publish();
    assert_eq!(kept(), Some(1));
    drop(gateway);
}
