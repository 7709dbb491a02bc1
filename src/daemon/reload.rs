//! Reads tokens and certificates again while the daemon runs.

use std::sync::Arc;

use crate::auth::Tokens;
use crate::metrics::Metrics;
use crate::tls::Tls;

/// Reads them again on request.
#[derive(Clone)]
pub(crate) struct Reloader {
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

    /// Reads them again, and logs the result. If they are invalid, the previous ones stay in use.
    pub(crate) fn reload(&self) {
        let tokens = self.tokens.reload();
        match &tokens {
            Ok(count) => log::info!("reloaded {count} tokens"),
            Err(error) => {
                log::error!("tokens could not be reloaded, the previous ones stay valid: {error}")
            }
        }
        let certificates = self.tls.as_ref().map_or(Ok(()), |tls| tls.reload());
        match &certificates {
            Ok(()) => log::info!("reloaded the certificates"),
            Err(error) => log::error!(
                "certificates could not be reloaded, the previous ones stay in use: {error}"
            ),
        }
        let taken = tokens.is_ok() && certificates.is_ok();
        self.metrics.reloaded.set(taken.into());
    }
}
