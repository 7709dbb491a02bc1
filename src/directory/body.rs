//! The body of an answer that many clients share.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

/// The least size of a body that is compressed, in bytes.
const WORTH_IT: usize = 1024;

/// The size from which a body is compressed on another thread, in bytes.
const LARGE: usize = 64 * 1024;

/// With zlib, level 9 takes five times as long as this one, for a list of instances that is a tenth
/// smaller.
const GZIP_LEVEL: u32 = 4;

/// The default of zstd.
const ZSTD_LEVEL: i32 = 3;

/// A content coding: RFC 9110, section 8.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// Returns its registered name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Returns the compressed form of a body, unless it is too small to be worth it.
    pub(crate) fn compress(self, body: &[u8]) -> Option<Vec<u8>> {
        if body.len() < WORTH_IT {
            return None;
        }
        // Writing to memory cannot fail.
        match self {
            Self::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(body).ok()?;
                encoder.finish().ok()
            }
            Self::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL).ok(),
        }
    }
}

/// A body with its entity tag and its compressed forms. Clones share them.
#[derive(Debug, Clone)]
pub struct Body(Arc<Content>);

#[derive(Debug)]
struct Content {
    bytes: Bytes,
    etag: String,
    /// For each [`Coding`]; `None` if it is not worth it.
    compressed: [OnceCell<Option<Bytes>>; 2],
}

impl Body {
    /// A body whose entity tag depends on its bytes.
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let etag = etag(&bytes);
        Self::with_etag(bytes, etag)
    }

    /// A body with another entity tag.
    pub(crate) fn with_etag(bytes: impl Into<Bytes>, etag: String) -> Self {
        Self(Arc::new(Content {
            bytes: bytes.into(),
            etag,
            compressed: Default::default(),
        }))
    }

    /// Returns the body as it is.
    pub fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// Returns the opaque part of its entity tag: equal on all replicas for equal bytes.
    pub fn etag(&self) -> &str {
        &self.0.etag
    }

    /// Returns the compressed form, unless the body is too small for one. It is made once, a large
    /// one on another thread.
    pub(crate) async fn compressed(&self, coding: Coding) -> Option<Bytes> {
        let made = self.0.compressed[coding as usize].get_or_init(async || {
            let bytes = self.0.bytes.clone();
            let make = move || coding.compress(&bytes).map(Bytes::from);
            if self.0.bytes.len() < LARGE {
                return make();
            }
            spawn_blocking(make).await.unwrap_or_default()
        });
        made.await.clone()
    }
}

/// Returns the entity tag of a content.
pub(crate) fn etag(content: &[u8]) -> String {
    // Replicas of different versions must agree on the tag, so the hash is a specified one. 128
    // bits are enough.
    hex::encode(&Sha256::digest(content)[..16])
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn replicas_of_all_versions_give_a_body_the_same_tag() {
        // The first 128 bits of its SHA-256.
        let body = Body::new("{}");
        assert_eq!(body.etag(), "44136fa355b3678a1146ad16f7e8649e");
    }

    #[tokio::test]
    async fn a_body_is_compressed_once_and_is_the_same_when_decompressed() {
        for size in [WORTH_IT, 2 * LARGE] {
            let body = Body::new("ab".repeat(size / 2));
            let other = body.clone();
            let (gzip, again) = tokio::join!(
                body.compressed(Coding::Gzip),
                other.compressed(Coding::Gzip)
            );
            let gzip = gzip.unwrap();
            assert_eq!(gzip.as_ptr(), again.unwrap().as_ptr());
            let mut plain = Vec::new();
            GzDecoder::new(&gzip[..]).read_to_end(&mut plain).unwrap();
            assert_eq!(body.bytes(), &plain);
            let zstd = body.compressed(Coding::Zstd).await.unwrap();
            assert_eq!(body.bytes(), &zstd::bulk::decompress(&zstd, size).unwrap());
        }
        let small = Body::new("a".repeat(WORTH_IT - 1));
        assert_eq!(small.compressed(Coding::Gzip).await, None);
    }
}
