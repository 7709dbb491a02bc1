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
        let tokens = self.tokens.reload();
        match &tokens {
            Ok(count) => log::info!("tokens read again: {count}"),
            Err(error) => log::error!("the tokens from before stay valid: {error}"),
        }
        let certificates = self.tls.as_ref().map_or(Ok(()), |tls| tls.reload());
        match &certificates {
            Ok(()) => log::info!("certificates read again"),
            Err(error) => log::error!("the certificates from before stay valid: {error}"),
        }
        let taken = tokens.is_ok() && certificates.is_ok();
        self.metrics.reloaded.set(taken.into());
    }
}
