//! `admin_listen`: clients on one address, everything else on another.

use std::net::SocketAddr;

use crate::harness::{Client, Gateway, finished, scratch, wait_for, weir};
use crate::raw::{Raw, handshake_request, http};

/// Where everything but clients is.
fn admin(gateway: &Gateway) -> SocketAddr {
    wait_for("the address in the log", || {
        let log = gateway.log();
        let (before, _) = log.split_once("/, for all but /ws")?;
        let (_, addr) = before.rsplit_once("listening on http://")?;
        Some(addr.parse().unwrap())
    })
}

#[test]
fn clients_and_the_rest_have_an_address_each() {
    let gateway = Gateway::configured("admin_listen = \"127.0.0.1:0\"\n");
    let (clients, admin) = (gateway.addr, admin(&gateway));
    let get = |addr, path: &str| http(addr, "GET", path, &[], b"");
    for path in ["/", "/weir.js", "/metrics", "/readyz", "/api/v1/stats", "/api/v1/channels"] {
        let hidden = get(clients, path);
        assert_eq!(hidden.error(404), "not_found", "{path}");
        assert!(!hidden.text().contains("metrics"), "it tells nothing of the rest");
        assert_eq!(get(admin, path).status, 200, "{path}");
    }
    let body = br#"{"channel":"room:1","data":1}"#;
    let post = |addr| http(addr, "POST", "/api/v1/publish", &[], body);
    assert_eq!(post(clients).error(404), "not_found");
    for addr in [clients, admin] {
        assert_eq!(get(addr, "/healthz").status, 200);
    }
    let mut client = Client::connect(&gateway);
    client.subscribe("room:1");
    assert_eq!(post(admin).json()["offset"], 1);
    assert_eq!(client.expect("event")["data"], 1);
    let mut stranger = Raw::open(admin);
    stranger.send(handshake_request(admin, &[]).as_bytes());
    assert_eq!(stranger.answer().error(404), "not_found");
}

/// A key does not open on the one address what is on the other.
#[test]
fn keys_change_nothing_of_that() {
    let keys = scratch(".keys");
    std::fs::write(&keys, "ops:0123456789abcdef0123456789abcdef\n").unwrap();
    let toml = format!("admin_listen = \"127.0.0.1:0\"\n[auth]\napi_keys_file = {keys:?}\n");
    let gateway = Gateway::configured(&toml);
    let bearer = [("Authorization", "Bearer 0123456789abcdef0123456789abcdef")];
    let stats = |addr, headers: &[(&str, &str)]| http(addr, "GET", "/api/v1/stats", headers, b"");
    assert_eq!(stats(gateway.addr, &bearer).error(404), "not_found");
    let admin = admin(&gateway);
    assert_eq!(stats(admin, &bearer).status, 200);
    assert_eq!(stats(admin, &[]).error(401), "unauthorized");
}

#[test]
fn a_private_address_that_is_not_is_refused_without_keys() {
    let keys = scratch(".keys");
    std::fs::write(&keys, "ops:0123456789abcdef0123456789abcdef\n").unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&keys, private).unwrap();
    let check = |toml: &str, flags: &[&str]| {
        let path = scratch(".toml");
        std::fs::write(&path, toml).unwrap();
        let output = finished(weir(&["check", "--config", path.to_str().unwrap()]).args(flags));
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let open = "admin_listen = [\"127.0.0.1:7071\", \"0.0.0.0:7070\"]\n";
    let (code, said) = check(open, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("admin_listen: \"0.0.0.0:7070\" is not loopback"), "{said}");
    assert_eq!(check(open, &["--insecure"]).0, Some(0));
    let keyed = format!("{open}[auth]\napi_keys_file = {keys:?}\n");
    assert_eq!(check(&keyed, &[]), (Some(0), String::new()));
}
