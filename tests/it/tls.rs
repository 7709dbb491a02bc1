//! TLS to PostgreSQL by `sslmode`, against a server with a certificate of a throw-away
//! authority.

use std::fs;
use std::path::Path;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::support::daemon::BINARY;
use crate::support::postgres::Postgres;

/// An authority, and a server certificate of it for `host`.
struct Certificates {
    authority: String,
    certificate: String,
    key: String,
}

impl Certificates {
    fn new(host: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        Self {
            authority: authority.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    async fn serve(&self) -> Postgres {
        Postgres::start_with(|dir| {
            let (cert, key) = (dir.join("server.crt"), dir.join("server.key"));
            fs::write(&cert, &self.certificate).unwrap();
            fs::write(&key, &self.key).unwrap();
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(&key, private).unwrap();
            let setting = |name: &str, path: &Path| format!("{name}={}", path.display());
            [
                "-c".into(),
                "ssl=on".into(),
                "-c".into(),
                setting("ssl_cert_file", &cert),
                "-c".into(),
                setting("ssl_key_file", &key),
            ]
            .into()
        })
        .await
    }
}

/// Migrates over `url`, which shows whether the daemon can connect.
fn migrate(url: &str) -> Result<(), String> {
    let output = Command::new(BINARY)
        .args(["migrate", "--store", url])
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[tokio::test]
async fn sslmode_says_how_the_server_is_identified() {
    let certificates = Certificates::new("127.0.0.1");
    let postgres = certificates.serve().await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let own = write("own.pem", &certificates.authority);
    let other = write("other.pem", &Certificates::new("127.0.0.1").authority);
    let empty = write("empty.pem", "");
    let url = postgres.url("postgres");
    let with = |parameters: &str| migrate(&format!("{url}?{parameters}"));

    for fine in [
        "sslmode=disable".to_owned(),
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=require&sslrootcert={own}"),
        format!("sslmode=verify-full&sslrootcert={own}"),
        format!("sslrootcert={own}"),
        "sslmode=require&options=-c%20work_mem%3D8MB".to_owned(),
    ] {
        assert_eq!(with(&fine), Ok(()), "{fine}");
    }
    for (bad, says) in [
        (
            format!("sslmode=verify-full&sslrootcert={other}"),
            "invalid peer certificate".to_owned(),
        ),
        (
            format!("sslmode=require&sslrootcert={other}"),
            "invalid peer certificate".to_owned(),
        ),
        ("sslmode=verify-full".to_owned(), String::new()),
        (
            format!("sslmode=verify-full&sslrootcert={empty}"),
            format!("sslrootcert {empty}: holds no certificate"),
        ),
        (
            "sslmode=verify-full&sslrootcert=/no/such/file".to_owned(),
            "sslrootcert /no/such/file: ".to_owned(),
        ),
    ] {
        let error = with(&bad).unwrap_err();
        assert!(
            error.contains(&says) && !error.contains("panicked"),
            "{bad} says {error}"
        );
    }
    // The same server by a name that its certificate does not have.
    let by_name = url.replace("127.0.0.1", "localhost");
    assert_eq!(migrate(&format!("{by_name}?sslmode=require")), Ok(()));
    let error = migrate(&format!("{by_name}?sslmode=verify-full&sslrootcert={own}")).unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_when_tls_is_required() {
    let postgres = Postgres::start().await;
    let url = postgres.url("postgres");
    assert_eq!(migrate(&format!("{url}?sslmode=prefer")), Ok(()));
    let error = migrate(&format!("{url}?sslmode=require")).unwrap_err();
    assert!(error.contains("server does not support TLS"), "{error}");
}
