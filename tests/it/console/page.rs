//! The page itself: how much it draws and requests, who can use it, and where its parts come from.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{ORDERS, ROW, open, two_online};
use crate::support::browser::Browser;
use crate::support::daemon::Daemon;
use crate::support::{addresses, eventually};

#[tokio::test]
async fn complaint_41_five_thousand_instances_are_scrolled_and_searched() {
    let daemon = Daemon::start(&[]).await;
    daemon
        .register("orders", &addresses(5000), &json!({}))
        .await;
    daemon
        .register("payments", &["needle:1".to_owned()], &json!({}))
        .await;
    let browser = open(&daemon, "services/orders").await;
    let count =
        "return document.querySelector('#instances .table')?.getAttribute('aria-rowcount') ?? ''";
    eventually(Duration::from_secs(30), "all are listed", || async {
        (browser.run(count).await == json!("5000")).then_some(())
    })
    .await;
    // Only the rows that are seen exist.
    let rows = "return document.querySelectorAll('#instance-rows .row').length";
    let rows = browser.run(rows).await.as_u64().unwrap();
    assert!((5..100).contains(&rows), "{rows}");
    browser
        .run("window.scrollTo(0, document.documentElement.scrollHeight)")
        .await;
    let last =
        "return [...document.querySelectorAll('#instance-rows .row')].at(-1)?.innerText ?? ''";
    eventually(Duration::from_secs(30), "the end is seen", || async {
        let last = browser.run(last).await;
        last.as_str()?.contains("h-4999:1").then_some(())
    })
    .await;
    browser.run("performance.clearResourceTimings()").await;
    browser.enter("#search", "needle").await;
    let row = browser.sees(ROW, |text| text.contains("needle:1")).await;
    assert!(row.contains("services/payments"), "{row}");
    let requests = "return performance.getEntriesByType('resource').filter((it) => it.name.includes('v1/instances') || it.name.includes('/instances?')).map((it) => new URL(it.name).search)";
    assert_eq!(browser.run(requests).await, json!(["?q=needle&limit=500"]));
    browser.close().await;
}

#[tokio::test]
async fn metadata_is_found_over_all_services() {
    let daemon = Daemon::start(&[]).await;
    daemon
        .put(ORDERS, json!({"metadata": {"zone": "eu-west-1b"}}))
        .await;
    daemon
        .put("/v1/services/payments/instances/h:1", json!({}))
        .await;
    let browser = open(&daemon, "search?q=eu-west-1b").await;
    let row = browser.sees(ROW, |text| text.contains("10.0.0.5")).await;
    assert!(row.contains("services/orders"), "{row}");
    assert!(!browser.text("#instance-rows").await.contains("h:1\n"));
    browser.close().await;
}

#[tokio::test]
async fn events_change_rows_without_reading_the_list_again() {
    let daemon = Daemon::start(&[]).await;
    let many = addresses(200);
    daemon.register("orders", &many, &json!({})).await;
    let browser = open(&daemon, "services/orders").await;
    browser.sees(ROW, |text| text.contains("Offline")).await;
    browser.run("performance.clearResourceTimings()").await;
    daemon.send_heartbeats("orders", &many).await;
    browser.sees(ROW, |text| text.contains("Available")).await;
    browser
        .sees(".title", |text| text.contains("200 of 200 available"))
        .await;
    let lists = "return performance.getEntriesByType('resource').filter((it) => it.name.endsWith('/v1/services/orders/instances') || it.name.endsWith('/v1/services')).length";
    assert_eq!(browser.run(lists).await, json!(0));
    browser.close().await;
}

#[tokio::test]
async fn hostile_names_and_metadata_are_text() {
    let daemon = Daemon::start(&[]).await;
    let hostile = "<img src=x onerror=window.harmed=1>";
    let body = json!({"name": hostile, "metadata": {hostile: "<script>window.harmed=2</script>", "version": hostile}});
    assert_eq!(daemon.put(ORDERS, body).await.0, 201);
    daemon
        .put("/v1/services/orders", json!({"name": hostile}))
        .await;
    let hold = json!({"status": "held", "reason": hostile});
    daemon.patch(ORDERS, hold).await;
    let browser = open(&daemon, "services/orders/10.0.0.5:8080").await;
    let drawer = browser
        .sees("#drawer", |text| text.contains("window.harmed=2"))
        .await;
    assert!(
        drawer.contains("<script>window.harmed=2</script>"),
        "{drawer}"
    );
    browser.sees(ROW, |text| text.contains(hostile)).await;
    browser.sees("h1", |text| text.contains(hostile)).await;
    for view in [
        "",
        "activity",
        "activity?show=operators",
        "search?q=onerror",
    ] {
        browser.run(&format!("location.hash = '{view}'")).await;
        browser
            .sees("main", |text| {
                text.contains("10.0.0.5") || text.contains("orders")
            })
            .await;
    }
    let inside = "return document.querySelectorAll('img, main script').length";
    assert_eq!(browser.run(inside).await, json!(0));
    assert_eq!(
        browser.run("return window.harmed ?? null").await,
        json!(null)
    );
    browser.close().await;
}

#[tokio::test]
async fn it_speaks_chinese_too() {
    let daemon = Daemon::start(&[]).await;
    two_online(&daemon).await;
    let browser = open(&daemon, "").await;
    browser.click("#language").await;
    browser
        .sees(".verdict h1", |text| text == "所有服务的实例均可用")
        .await;
    let lang = "return document.documentElement.lang";
    assert_eq!(browser.run(lang).await, json!("zh-CN"));
    browser.close().await;
}

/// The rules of axe, which `tests/run` installs.
fn axe() -> String {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/lib");
    let pythons = fs::read_dir(&lib).unwrap_or_else(|error| {
        panic!("{}: {error}; run tests/run once", lib.display());
    });
    let mut files = pythons.filter_map(|python| {
        let part = "site-packages/axe_playwright_python/axe.min.js";
        fs::read_to_string(python.ok()?.path().join(part)).ok()
    });
    files.next().expect("axe is installed by tests/run")
}

#[tokio::test]
async fn the_rules_of_accessibility_find_nothing() {
    let daemon = Daemon::start(&[]).await;
    daemon
        .register("orders", &addresses(3), &json!({"metadata": {"zone": "a"}}))
        .await;
    daemon
        .send_heartbeats("orders", &["h-0:1".to_owned()])
        .await;
    let hold = json!({"status": "held", "reason": "disk is failing"});
    daemon
        .patch("/v1/services/orders/instances/h-1:1", hold)
        .await;
    daemon.put("/v1/groups/edge", json!({})).await;
    daemon.put("/v1/groups/edge/instances/g:1", json!({})).await;
    let browser = open(&daemon, "").await;
    let rules = axe();
    let check = async |browser: &Browser, view: &str| {
        browser.run(&rules).await;
        let run = "const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then(({ passes, violations }) => done({ passes: passes.length, found: violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`) }))";
        let result = browser.run_async(run).await;
        assert!(result["passes"].as_u64().unwrap() > 20, "{view}: {result}");
        assert_eq!(result["found"], json!([]), "{view}");
    };
    for view in [
        "",
        "services",
        "groups",
        "services/orders",
        "services/orders/h-1:1",
        "activity",
        "activity?show=operators",
        "cluster",
        "search?q=h-",
    ] {
        browser.run(&format!("location.hash = '{view}'")).await;
        browser.sees("main", |text| text.len() > 60).await;
        check(&browser, view).await;
    }
    browser.run("location.hash = 'services/orders'").await;
    super::select(&browser, "h-0:1").await;
    browser.click("#do-hold").await;
    check(&browser, "a dialog").await;
    browser.close().await;
}

/// Without a browser: the served page itself forbids requests to other hosts, and markup made from
/// text.
#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere_and_writes_no_markup() {
    let daemon = Daemon::start(&[]).await;
    let get = async |path: &str| {
        let answer = daemon
            .client()
            .get(format!("{}{path}", daemon.url()))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"));
        assert!(policy.ends_with("require-trusted-types-for 'script'; trusted-types lit-html"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header("x-content-type-options"), "nosniff");
        let again = daemon.client().get(format!("{}{path}", daemon.url()));
        let again = again
            .header("If-None-Match", header("etag"))
            .send()
            .await
            .unwrap();
        assert_eq!(again.status(), 304, "{path}");
        answer.text().await.unwrap()
    };
    let page = get("/").await;
    assert!(
        !page.contains("://") && !page.contains("style=") && !page.contains(" on"),
        "{page}"
    );
    let mut parts: Vec<String> = page
        .split('"')
        .filter(|text| text.starts_with("console/"))
        .map(|part| format!("/{part}"))
        .collect();
    let mut seen = 0;
    while let Some(path) = parts.get(seen).cloned() {
        seen += 1;
        let part = get(&path).await;
        let folder = path.rsplit_once('/').unwrap().0;
        let imports = part
            .split("from \"")
            .skip(1)
            .chain(part.split("from\"").skip(1));
        for import in imports.map(|rest| rest.split('"').next().unwrap()) {
            let mut place = folder.to_owned();
            let mut rest = import.trim_start_matches("./");
            while let Some(up) = rest.strip_prefix("../") {
                rest = up;
                place.truncate(place.rfind('/').unwrap());
            }
            let import = format!("{place}/{rest}");
            if !parts.contains(&import) {
                parts.push(import);
            }
        }
        if path.contains("/vendor/") || path.ends_with(".svg") {
            continue;
        }
        for bad in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "Function(",
            "unsafeHTML",
            "://",
        ] {
            assert!(!part.contains(bad), "{path} has {bad}");
        }
    }
    // Each part is used, and each file is at most 300 lines.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/console");
    for name in ["", "views/"] {
        for file in fs::read_dir(folder.join(name)).unwrap() {
            let file = file.unwrap().file_name().into_string().unwrap();
            if file.ends_with(".js") {
                assert!(
                    parts.contains(&format!("/console/{name}{file}")),
                    "{name}{file} is not used"
                );
                let text = fs::read_to_string(folder.join(name).join(&file)).unwrap();
                assert!(text.lines().count() <= 300, "{file}");
            }
        }
    }
    assert_eq!(daemon.get("/console/none.js").await.0, 404);
    assert_eq!(daemon.get("/console/../Cargo.toml").await.0, 404);
}

#[test]
fn the_vendored_libraries_are_those_that_were_published() {
    let vendor = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/console/vendor");
    let readme = fs::read_to_string(vendor.join("README.md")).unwrap();
    let mut listed = BTreeSet::new();
    for line in readme
        .lines()
        .filter(|line| line.contains("license") || line.contains("LICENSE"))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, file, _, licence, hash, _] = cells.as_slice() else {
            continue;
        };
        let text = fs::read(vendor.join(file)).unwrap();
        assert_eq!(hex::encode(Sha256::digest(text)), *hash, "{file}");
        let licence = licence.rsplit(", ").next().unwrap();
        assert!(vendor.join(licence).exists(), "{licence}");
        listed.insert((*file).to_owned());
    }
    assert_eq!(listed.len(), 6, "{listed:?}");
}

#[tokio::test]
async fn both_languages_have_the_same_texts() {
    let daemon = Daemon::start(&[]).await;
    let browser = open(&daemon, "").await;
    let names = "const done = arguments[0]; (async () => {
        const { zh } = await import(new URL('console/words-zh.js', document.baseURI));
        const { en } = await import(new URL('console/words.js', document.baseURI));
        const names = (texts, before = '') => Object.entries(texts).flatMap(([name, text]) => typeof text === 'object' ? names(text, `${before}${name}.`) : [before + name]);
        const [a, b] = [names(en), names(zh)];
        done([a.filter((name) => !b.includes(name)), b.filter((name) => !a.includes(name))]);
    })()";
    assert_eq!(browser.run_async(names).await, json!([[], []]));
    browser.close().await;
}
