//! What the program is built from: every package of the lock file comes from the registry and has a
//! licence that `deny.toml` allows. `cargo deny` says the same and more where it is installed; this
//! runs everywhere.

use std::process::Command;

use serde_json::{Value, json};
use spdx::Expression;

/// Where packages may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The licences that `deny.toml` allows.
fn allowed(deny: &str) -> Vec<String> {
    let deny: toml::Table = deny.parse().unwrap();
    let names = deny["licenses"]["allow"].as_array().unwrap();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// What is wrong with one package of `cargo metadata`.
fn fault(package: &Value, allowed: &[String]) -> Option<String> {
    let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
    // What has no source is of this workspace.
    let source = &package["source"];
    if !source.is_null() && source != REGISTRY {
        return Some(format!("{name}: comes from {source}"));
    }
    let Some(licence) = package["license"].as_str() else {
        return Some(format!("{name}: names no licence"));
    };
    // Older manifests write a slash for OR.
    let licence = licence.replace('/', " OR ");
    let Ok(expression) = Expression::parse(&licence) else {
        return Some(format!("{name}: `{licence}` is not an SPDX expression"));
    };
    let met = expression.evaluate(|one| allowed.iter().any(|name| *name == one.to_string()));
    (!met).then(|| format!("{name}: `{licence}` is not allowed by deny.toml"))
}

#[test]
fn every_package_comes_from_the_registry_under_an_allowed_licence() {
    let root = env!("CARGO_MANIFEST_DIR");
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--all-features"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let allowed = allowed(&std::fs::read_to_string(format!("{root}/deny.toml")).unwrap());
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "that is not the whole tree: {}", packages.len());
    let faults: Vec<_> = packages.iter().filter_map(|one| fault(one, &allowed)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn planted_faults_are_found() {
    let allowed = ["MIT".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
    let package = |licence: &str, source: &str| {
        let (name, version) = ("a", "1.0.0");
        json!({"name": name, "version": version, "license": licence, "source": source})
    };
    for good in ["MIT", "MIT OR Apache-2.0", "Apache-2.0/MIT", "Apache-2.0 WITH LLVM-exception"] {
        assert_eq!(fault(&package(good, REGISTRY), &allowed), None);
    }
    for bad in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0", "whatever"] {
        assert!(fault(&package(bad, REGISTRY), &allowed).is_some(), "{bad}");
    }
    assert!(fault(&package("MIT", "git+https://example.org/a"), &allowed).is_some());
    assert!(fault(&json!({"name": "a", "version": "1.0.0"}), &allowed).is_some());
}
