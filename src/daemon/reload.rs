//! What can be read again while the daemon runs: tokens and certificates.

use std::sync::Arc;

use crate::auth::Tokens;
use crate::metrics::Metrics;
use crate::tls::Tls;

/// Reads them again.
#[derive(Clone)]
pub struct Reloader {
    tokens: Arc<Tokens>,
    tls: Option<Arc<Tls>>,
    metrics: Arc<Metrics>,
}

impl Reloader {
    pub(super) fn new(tokens: Arc<Tokens>, tls: Option<Arc<Tls>>, metrics: Arc<Metrics>) -> Self {
        Self {
            tokens,
            tls,
            metrics,
        }
    }

    /// Says in the log what came of it. What cannot be used leaves the old in place.
    pub fn reload(&self) {
        match self.tokens.reload() {
            Ok(count) => log::info!("tokens read again: {count}"),
            Err(error) => self.failed("tokens", &error.to_string()),
        }
        match self.tls.as_ref().map(|tls| tls.reload()) {
            Some(Ok(())) => log::info!("certificates read again"),
            Some(Err(error)) => self.failed("certificates", &error.to_string()),
            None => {}
        }
    }

    fn failed(&self, what: &str, error: &str) {
        self.metrics.reload_errors.inc();
        log::error!("the {what} from before stay valid: {error}");
    }
}
