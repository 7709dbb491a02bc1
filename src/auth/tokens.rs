//! Tokens: where they come from, and whose they are.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{AnonymousRole, Identity, Role, parse_name};

/// The shortest token, in characters: a shorter one could be guessed.
pub(crate) const MIN_TOKEN: usize = 32;

/// The number of random bytes in a generated token.
const CHANCE: usize = 32;

/// The format of a line of a tokens file.
const LINE: &str = "must be: ROLE NAME SHA256 [SCOPE]";

/// The name of callers without a token.
const ANONYMOUS: &str = "anonymous";

/// A token, generated or configured. Its Debug output hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

impl Token {
    /// Generates a token of 256 random bits.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut chance = [0; CHANCE];
        getrandom::fill(&mut chance)?;
        Ok(Self(format!("rollcall_{}", hex::encode(chance))))
    }

    /// Returns the token itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns its line for a tokens file.
    pub fn line(&self, identity: &Identity) -> String {
        let Identity { name, role, limit } = identity;
        let hash = hex::encode(Hash::of(&self.0).0);
        match limit {
            Some(limit) => format!("{role} {name} {hash} {limit}"),
            None => format!("{role} {name} {hash}"),
        }
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < MIN_TOKEN {
            return Err(format!(
                "is shorter than {MIN_TOKEN} characters: `rollcalld token` generates one"
            ));
        }
        if text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err("must be printable ASCII characters without spaces".to_owned())
        }
    }
}

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Hash([u8; 32]);

impl Hash {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl FromStr for Hash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        // The message does not repeat the text, which may be the token itself.
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| "the third word must be a SHA-256: 64 hexadecimal digits".to_owned())?;
        Ok(Self(bytes))
    }
}

/// Why tokens cannot be used. Names the file and line, and shows no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin} {reason}")]
pub struct TokenError {
    origin: String,
    reason: String,
}

impl TokenError {
    fn new(origin: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            origin: origin.into(),
            reason: reason.into(),
        }
    }
}

/// The sources of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenSources {
    /// Tokens from variables, each named after its role.
    pub(crate) given: Vec<(Role, Token)>,
    /// Files with one token each, named after its role.
    pub(crate) files: Vec<(Role, PathBuf)>,
    /// A file with one line per token: role, name, SHA-256, and the scope of a limited token.
    pub(crate) list: Option<PathBuf>,
}

type Entry = (Hash, Arc<Identity>);

impl TokenSources {
    /// Returns whether no tokens are configured.
    pub(crate) fn is_empty(&self) -> bool {
        self.given.is_empty() && self.files.is_empty() && self.list.is_none()
    }

    fn read(&self) -> Result<Vec<Entry>, TokenError> {
        let named = |role: Role, token: &Token| {
            let identity = Identity {
                name: role.to_string(),
                role,
                limit: None,
            };
            (Hash::of(&token.0), Arc::new(identity))
        };
        let mut entries: Vec<Entry> = Vec::new();
        for (role, token) in &self.given {
            entries.push(named(*role, token));
        }
        for (role, path) in &self.files {
            let origin = || format!("the token of {}", path.display());
            let token = read_file(path)?.parse();
            let token = token.map_err(|reason: String| TokenError::new(origin(), reason))?;
            entries.push(named(*role, &token));
        }
        if let Some(path) = &self.list {
            entries.extend(read_list(path)?);
        }
        let (mut identities, mut hashes) = (HashMap::new(), HashSet::new());
        for (hash, identity) in &entries {
            let name = &identity.name;
            let failed = |reason| Err(TokenError::new(format!("the token {name:?}"), reason));
            if !hashes.insert(hash) {
                return failed("has a value that occurs twice: each token needs its own");
            }
            // A name may have two tokens while its clients change from one to the other.
            if *identities.entry(name).or_insert(identity) != identity {
                return failed("occurs with different roles or scopes: these need other names");
            }
        }
        Ok(entries)
    }
}

fn read_file(path: &Path) -> Result<String, TokenError> {
    std::fs::read_to_string(path)
        .map_err(|error| TokenError::new(path.display().to_string(), error.to_string()))
}

fn read_list(path: &Path) -> Result<Vec<Entry>, TokenError> {
    let mut entries = Vec::new();
    for (index, line) in read_file(path)?.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let origin = format!("{} line {}:", path.display(), index + 1);
        let entry = parse_line(&words).map_err(|reason| TokenError::new(origin, reason))?;
        entries.push(entry);
    }
    if entries.is_empty() {
        Err(TokenError::new(
            path.display().to_string(),
            "contains no token: `rollcalld token` generates one and prints its line",
        ))
    } else {
        Ok(entries)
    }
}

fn parse_line(words: &[&str]) -> Result<Entry, String> {
    let [role, name, hash, limit @ ..] = words else {
        return Err(LINE.to_owned());
    };
    let identity = Identity {
        role: role.parse()?,
        name: parse_name(name)?,
        limit: match limit {
            [] => None,
            [limit] => Some(limit.parse()?),
            _ => return Err(LINE.to_owned()),
        },
    };
    Ok((hash.parse()?, Arc::new(identity)))
}

/// The valid tokens.
pub(crate) struct Tokens {
    sources: TokenSources,
    entries: ArcSwap<Vec<Entry>>,
    anonymous: Option<Arc<Identity>>,
}

impl Tokens {
    /// Loads the tokens. `anonymous` is the role of callers without a token.
    pub(crate) fn load(
        sources: TokenSources,
        anonymous: AnonymousRole,
    ) -> Result<Self, TokenError> {
        let anonymous = match anonymous {
            AnonymousRole::None => None,
            AnonymousRole::Role(role) => Some(Arc::new(Identity {
                name: ANONYMOUS.to_owned(),
                role,
                limit: None,
            })),
        };
        Ok(Self {
            entries: ArcSwap::from_pointee(sources.read()?),
            anonymous,
            sources,
        })
    }

    /// Loads the tokens again, and returns their number. After an error the previous ones stay
    /// valid.
    pub(crate) fn reload(&self) -> Result<usize, TokenError> {
        let entries = self.sources.read()?;
        let count = entries.len();
        self.entries.store(Arc::new(entries));
        Ok(count)
    }

    /// Returns the identity of callers without a token, if these are permitted.
    pub(crate) fn anonymous(&self) -> Option<&Arc<Identity>> {
        self.anonymous.as_ref()
    }

    /// Returns whether no tokens are configured, so that none is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Returns whether callers without a token may do everything.
    pub(crate) fn is_open(&self) -> bool {
        self.anonymous()
            .is_some_and(|anonymous| anonymous.role == Role::Admin)
    }

    /// Returns the identity of a token. Takes the same time for every token.
    pub(crate) fn identify(&self, token: &str) -> Option<Arc<Identity>> {
        let hash = Hash::of(token);
        let mut found = None;
        for (known, identity) in self.entries.load().iter() {
            if bool::from(known.0.ct_eq(&hash.0)) {
                found = Some(Arc::clone(identity));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_made_is_read_again() {
        let token = Token::generate().unwrap();
        let identity = Identity {
            name: "orders-team".into(),
            role: Role::Agent,
            limit: Some("services/orders*".parse().unwrap()),
        };
        let line = token.line(&identity);
        assert!(!line.contains(token.reveal()), "{line}");
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("tokens");
        std::fs::write(&list, format!("# ours\n\n{line}\n")).unwrap();
        let sources = TokenSources {
            list: Some(list.clone()),
            ..TokenSources::default()
        };
        let tokens = Tokens::load(sources, AnonymousRole::None).unwrap();
        assert_eq!(*tokens.identify(token.reveal()).unwrap(), identity);
        assert_eq!(tokens.identify(&token.reveal().to_uppercase()), None);
        assert_eq!(tokens.identify(""), None);
        assert_eq!(tokens.anonymous(), None);

        // A bad file leaves the old tokens valid.
        std::fs::write(&list, "agent orders-team").unwrap();
        let error = tokens.reload().unwrap_err().to_string();
        assert!(
            error.ends_with("line 1: must be: ROLE NAME SHA256 [SCOPE]"),
            "{error}"
        );
        assert!(tokens.identify(token.reveal()).is_some());
    }

    #[test]
    fn a_name_may_have_two_tokens_of_one_role_and_scope() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("tokens");
        let (old, new) = (Token::generate().unwrap(), Token::generate().unwrap());
        let identity = Identity {
            name: "web-team".into(),
            role: Role::Agent,
            limit: Some("services/web".parse().unwrap()),
        };
        let lines = [old.line(&identity), new.line(&identity)];
        std::fs::write(&list, lines.join("\n")).unwrap();
        let sources = TokenSources {
            list: Some(list),
            ..TokenSources::default()
        };
        let tokens = Tokens::load(sources, AnonymousRole::Role(Role::Read)).unwrap();
        for token in [old, new] {
            assert_eq!(*tokens.identify(token.reveal()).unwrap(), identity);
        }
        assert_eq!(tokens.anonymous().unwrap().role, Role::Read);
        assert!(!tokens.is_open());
    }

    #[test]
    fn an_error_about_tokens_shows_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("tokens");
        let sources = TokenSources {
            list: Some(list.clone()),
            ..TokenSources::default()
        };
        let hash = "ab".repeat(32);
        for (text, says) in [
            ("", "contains no token"),
            (
                "root ops s3cret",
                "line 1: role must be read, agent or admin",
            ),
            ("admin o:s s3cret", "line 1: name must be"),
            (
                "\nadmin ops s3cret",
                "line 2: the third word must be a SHA-256",
            ),
            (
                &format!("admin ops {hash} orders"),
                "line 1: scope must be services/KEY",
            ),
            (
                &format!("admin a {hash}\nread a {}", "cd".repeat(32)),
                "\"a\" occurs with different roles",
            ),
            (
                &format!("read a {hash} services/a\nread a {}", "cd".repeat(32)),
                "\"a\" occurs with different roles",
            ),
            (
                &format!("admin a {hash}\nread b {hash}"),
                "\"b\" has a value that occurs twice",
            ),
        ] {
            std::fs::write(&list, text).unwrap();
            let tokens = Tokens::load(sources.clone(), AnonymousRole::None);
            let error = tokens.err().unwrap().to_string();
            assert!(error.contains(says) && !error.contains("s3cret"), "{error}");
        }
        let short = "short".parse::<Token>().unwrap_err();
        assert!(short.contains("shorter than 32 characters"), "{short}");
        assert!(format!("{:?}", Token::generate().unwrap()).ends_with("(***)"));
    }
}
