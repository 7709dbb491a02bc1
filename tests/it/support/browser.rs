//! A headless Chromium, driven by the WebDriver protocol: <https://www.w3.org/TR/webdriver2/>.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::daemon::client_builder;
use super::eventually;
use super::process::{Process, free_port, spawn};

/// The time limit for a page to show something.
const SEEN: Duration = Duration::from_secs(30);

/// A window of a browser that has nothing of another.
pub(crate) struct Browser {
    session: String,
    client: reqwest::Client,
    _driver: Process,
    _profile: TempDir,
}

impl Browser {
    /// Opens a page.
    pub(crate) async fn open(url: &str) -> Self {
        let (port, profile) = (free_port(), TempDir::new().unwrap());
        let driver = spawn("chromedriver", None, |command| {
            command
                .arg(format!("--port={port}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null());
        });
        let client = client_builder().timeout(SEEN).build().unwrap();
        let base = format!("http://127.0.0.1:{port}");
        eventually(SEEN, "the driver of the browser answers", || async {
            let status = client.get(format!("{base}/status")).send().await.ok()?;
            status.status().is_success().then_some(())
        })
        .await;
        let folder = format!("--user-data-dir={}", profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            "--no-first-run",
            "--lang=en",
            "--window-size=1280,900",
            &folder,
        ];
        let wanted =
            json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}});
        let answer = client.post(format!("{base}/session")).json(&wanted);
        let answer: Value = answer.send().await.unwrap().json().await.unwrap();
        let id = answer["value"]["sessionId"].as_str();
        let id = id.unwrap_or_else(|| panic!("no browser: {answer}"));
        let browser = Self {
            session: format!("{base}/session/{id}"),
            client,
            _driver: Process::new(driver),
            _profile: profile,
        };
        browser.post("url", json!({ "url": url })).await;
        browser
    }

    async fn post(&self, command: &str, body: Value) -> Value {
        let request = self.client.post(format!("{}/{command}", self.session));
        let answer = request.json(&body).send().await.unwrap();
        let (status, answer) = (answer.status(), answer.json::<Value>().await.unwrap());
        assert!(status.is_success(), "{command} {body}: {answer}");
        answer["value"].clone()
    }

    /// Runs a script, and returns its result.
    pub(crate) async fn run(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.post("execute/sync", body).await
    }

    /// Returns the visible text of an element.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let selector = json!(selector);
        let script = format!("return document.querySelector({selector})?.innerText ?? ''");
        self.run(&script)
            .await
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits until the text of an element satisfies `right`.
    pub(crate) async fn sees(&self, selector: &str, right: impl Fn(&str) -> bool) -> String {
        let what = format!("{selector} is as it should be");
        eventually(SEEN, &what, || async {
            let text = self.text(selector).await;
            right(&text).then_some(text)
        })
        .await
    }

    /// Clicks like a user: a covered element cannot be clicked. If the page replaces the element at
    /// that moment, it is searched again.
    pub(crate) async fn click(&self, selector: &str) {
        eventually(SEEN, &format!("{selector} is clicked"), || async {
            let element = self.find(selector).await;
            let url = format!("{}/element/{element}/click", self.session);
            let click = self.client.post(url).json(&json!({}));
            click
                .send()
                .await
                .unwrap()
                .status()
                .is_success()
                .then_some(())
        })
        .await;
    }

    /// Types into a field.
    pub(crate) async fn enter(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.post(&format!("element/{element}/value"), json!({ "text": text }))
            .await;
    }

    /// Presses keys one after the other, in the element that has the focus.
    pub(crate) async fn press(&self, keys: &str) {
        let key = |key: char| {
            [
                json!({"type": "keyDown", "value": key}),
                json!({"type": "keyUp", "value": key}),
            ]
        };
        let actions: Vec<Value> = keys.chars().flat_map(key).collect();
        let body = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.post("actions", body).await;
    }

    /// Runs a script that calls its last argument with the result.
    pub(crate) async fn run_async(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.post("execute/async", body).await
    }

    /// Empties a field and types into it.
    pub(crate) async fn replace(&self, selector: &str, text: &str) {
        let element = self.find(selector).await;
        self.post(&format!("element/{element}/clear"), json!({}))
            .await;
        self.enter(selector, text).await;
    }

    async fn find(&self, selector: &str) -> String {
        eventually(SEEN, &format!("there is {selector}"), || async {
            let request = self.client.post(format!("{}/element", self.session));
            let body = json!({"using": "css selector", "value": selector});
            let answer: Value = request.json(&body).send().await.ok()?.json().await.ok()?;
            let found = answer["value"].as_object()?;
            let id = found.get("element-6066-11e4-a52e-4f735466cecf")?;
            id.as_str().map(str::to_owned)
        })
        .await
    }

    /// Ends the window, and the processes that belong to it.
    pub(crate) async fn close(self) {
        let _ = self.client.delete(&self.session).send().await;
    }
}
