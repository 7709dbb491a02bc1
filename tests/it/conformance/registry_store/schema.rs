//! The schema and its migrations.

use super::*;
use crate::conformance::suite;

suite! {
    backends:
        on_sqlite => crate::conformance::registry_store::sqlite(),
        on_postgres => crate::conformance::registry_store::postgres();
    tests: {
        migrating_again_changes_nothing,
        a_schema_newer_than_this_binary_is_refused,
        addresses_of_older_versions_become_normal_and_one_instance_each,
    }
}

async fn migrating_again_changes_nothing(mut fixture: Fixture) {
    fixture.declare(&group("edge"), None).await;
    assert_eq!(
        fixture.store.writer.migrate().await.unwrap(),
        Vec::<String>::new()
    );
    assert!(
        fixture
            .store
            .reader
            .find_scope(&group("edge"))
            .await
            .unwrap()
            .is_some()
    );
}

/// Changes the database as an older or newer version, or another program, would.
async fn execute(fixture: &Fixture, statements: &str) {
    match fixture.url.strip_prefix("sqlite:") {
        Some(path) => {
            let connection = rusqlite::Connection::open(path).unwrap();
            connection.execute_batch(statements).unwrap();
        }
        None => {
            let client = servers::connect(&fixture.url).await.unwrap();
            client.batch_execute(statements).await.unwrap();
        }
    }
}

async fn a_schema_newer_than_this_binary_is_refused(mut fixture: Fixture) {
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
        VALUES (99, 'later', '2030-01-01T00:00:00Z', '1')";
    execute(&fixture, newer).await;
    match fixture.store.writer.migrate().await.unwrap_err() {
        MigrateError::SchemaNewer { found, known } => {
            let newest = if fixture.url.starts_with("sqlite:") {
                6
            } else {
                7
            };
            assert_eq!((found, known), (99, newest));
        }
        error => panic!("{error}"),
    }
}

async fn addresses_of_older_versions_become_normal_and_one_instance_each(mut fixture: Fixture) {
    fixture
        .register(full(instance(service("orders"), "10.0.0.1:80")))
        .await;
    let older = "DELETE FROM refinery_schema_history WHERE version >= 4;
        ALTER TABLE instance DROP COLUMN override_weight;
        ALTER TABLE instance DROP COLUMN override_metadata;
        ALTER TABLE instance DROP COLUMN registered_by;
        ALTER TABLE scope DROP COLUMN declared;
        ALTER TABLE instance DROP COLUMN held_until;
        DROP TABLE action;
        INSERT INTO instance (scope_id, address, status, registered_at, updated_at)
        SELECT instance.scope_id, given.address, 'enabled', instance.registered_at,
               instance.updated_at
        FROM instance CROSS JOIN (
            SELECT 'Host.EU:80' AS address
            UNION ALL SELECT 'HOST.eu:80'
            UNION ALL SELECT '[0:0:0:0:0:0:0:1]:80'
            UNION ALL SELECT '[::FFFF:c000:0201]:81'
        ) AS given";
    execute(&fixture, older).await;
    let applied = fixture.store.writer.migrate().await.unwrap();
    assert_eq!(
        applied[..3],
        ["V4__addresses", "V5__decisions", "V6__actions"]
    );
    let all = fixture.all().await;
    let mut addresses: Vec<String> = all
        .iter()
        .map(|instance| instance.key.address.to_string())
        .collect();
    addresses.sort();
    assert_eq!(
        addresses,
        [
            "10.0.0.1:80",
            "[::1]:80",
            "[::ffff:192.0.2.1]:81",
            "host.eu:80"
        ]
    );
}
