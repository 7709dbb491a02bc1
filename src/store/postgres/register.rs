//! Registrations: many in one statement.

use chrono::SubsecRound;
use foldhash::{HashMap, HashSet};
use tokio_postgres::types::Type;

use super::writer::PostgresTransaction;
use super::{KeyColumns, Params, rows};
use crate::model::{
    DisplayName, Instance, InstanceKey, Registration, Resets, ScopeKind, ScopeRecord,
};
use crate::store::{Registered, RegisteredMany, StoreError};

/// The number of registrations of a service, on average, from which it is declared without a look.
const MANY: usize = 8;

impl PostgresTransaction<'_> {
    /// Registers instances, each at most once.
    pub(super) async fn register(
        &mut self,
        registrations: &[Registration],
    ) -> Result<RegisteredMany, StoreError> {
        let all: Vec<&Registration> = registrations.iter().collect();
        let (mut services, mut upserted) = (Vec::new(), Upserted::default());
        // Most services are known. Unknown ones show as missing results; those of many instances
        // are declared before.
        let of_many = services_of_many(&all);
        for (resets, alike) in by_resets(&all) {
            services.extend(self.upsert(&of_many, &alike, resets, &mut upserted).await?);
        }
        let Upserted {
            mut registered,
            updated,
        } = upserted;
        let missing = |registration: &&Registration| !registered.contains_key(&registration.key);
        let others: Vec<InstanceKey> = registrations
            .iter()
            .filter(missing)
            .map(|registration| registration.key.clone())
            .collect();
        for instance in self.find(&others).await? {
            let key = instance.key.clone();
            let found = Registered {
                created: false,
                changed: updated.contains(&key),
                instance,
            };
            registered.insert(key, found);
        }
        let of_unknown = |registration: &&Registration| {
            let key = &registration.key;
            key.scope.kind == ScopeKind::Service && !registered.contains_key(key)
        };
        let of_unknown: Vec<&Registration> = all.into_iter().filter(of_unknown).collect();
        let mut upserted = Upserted::default();
        for (resets, alike) in by_resets(&of_unknown) {
            let keys = alike.iter().map(|one| one.key.scope.key.as_str());
            let keys: Vec<&str> = keys.collect();
            services.extend(self.upsert(&keys, &alike, resets, &mut upserted).await?);
        }
        registered.extend(upserted.registered);
        let answers = registrations.iter().map(|registration| {
            let answer = registered.remove(&registration.key);
            match registration.key.scope.kind {
                // It was declared one statement ago, and another replica has deleted it since.
                ScopeKind::Service if answer.is_none() => Err(StoreError::Conflict(format!(
                    "{} was deleted",
                    registration.key.scope
                ))),
                _ => Ok(answer),
            }
        });
        let instances = answers.collect::<Result<_, _>>()?;
        Ok(RegisteredMany {
            instances,
            services,
        })
    }

    /// Declares those of the services that are unknown, and returns them; inserts and updates
    /// instances. All registrations treat known instances alike.
    async fn upsert(
        &mut self,
        services: &[&str],
        registrations: &[&Registration],
        resets: Resets,
        upserted: &mut Upserted,
    ) -> Result<Vec<ScopeRecord>, StoreError> {
        let columns = KeyColumns::of(registrations.iter().map(|registration| &registration.key));
        let mut names = Vec::with_capacity(registrations.len());
        let mut weights = Vec::with_capacity(registrations.len());
        let mut metadata = Vec::with_capacity(registrations.len());
        let mut ttls = Vec::with_capacity(registrations.len());
        let mut registrants = Vec::with_capacity(registrations.len());
        let mut statuses = Vec::with_capacity(registrations.len());
        for registration in registrations {
            let Registration {
                name, weight, ttl, ..
            } = registration;
            names.push(name.given().map(DisplayName::as_str));
            weights.push(weight.given().map(|weight| i32::from(weight.get())));
            metadata.push(registration.metadata.given().map(rows::json).transpose()?);
            ttls.push(ttl.given().map(|ttl| i32::from(ttl.as_secs())));
            registrants.push(registration.by.as_ref().map(ToString::to_string));
            statuses.push(registration.first_status().as_str());
        }
        let now = self.now;
        let declare: Params<'_> = &[(&services, Type::TEXT_ARRAY), (&now, Type::TIMESTAMPTZ)];
        let register: Params<'_> = &[
            (&columns.kinds, Type::TEXT_ARRAY),
            (&columns.keys, Type::TEXT_ARRAY),
            (&columns.addresses, Type::TEXT_ARRAY),
            (&names, Type::TEXT_ARRAY),
            (&weights, Type::INT4_ARRAY),
            (&metadata, Type::JSONB_ARRAY),
            (&ttls, Type::INT4_ARRAY),
            (&registrants, Type::TEXT_ARRAY),
            (&statuses, Type::TEXT_ARRAY),
            (&now, Type::TIMESTAMPTZ),
            (&resets.name, Type::BOOL),
            (&resets.weight, Type::BOOL),
            (&resets.metadata, Type::BOOL),
            (&resets.ttl, Type::BOOL),
            (&resets.keeps_status, Type::BOOL),
        ];
        let mut questions = vec![(sql!("register_instances"), register)];
        if !services.is_empty() {
            questions.insert(0, (sql!("declare_services"), declare));
        }
        let mut answers = self.query_pipelined(&questions).await?;
        let registered = answers.pop().unwrap_or_default();
        let declared = answers.pop().unwrap_or_default();
        let by_key: HashMap<[&str; 3], &Registration> = registrations
            .iter()
            .map(|registration| (key_columns(&registration.key), *registration))
            .collect();
        // PostgreSQL stores microseconds.
        let now = now.trunc_subsecs(6);
        for row in &registered {
            let (id, columns, created) = rows::upserted(row)?;
            let Some(registration) = by_key.get(&columns) else {
                continue;
            };
            let key = registration.key.clone();
            if created {
                let created = Registered {
                    created,
                    changed: true,
                    instance: Instance::first_registered(id, registration, now),
                };
                upserted.registered.insert(key, created);
            } else {
                upserted.updated.insert(key);
            }
        }
        declared.iter().map(rows::scope).collect()
    }
}

/// The instances that a statement inserted or updated.
#[derive(Default)]
struct Upserted {
    registered: HashMap<InstanceKey, Registered>,
    updated: HashSet<InstanceKey>,
}

/// The kind, key and address, as they are stored.
fn key_columns(key: &InstanceKey) -> [&str; 3] {
    [
        key.scope.kind.as_str(),
        key.scope.key.as_str(),
        key.address.as_str(),
    ]
}

/// Returns the services if each has many of the registrations.
fn services_of_many<'a>(registrations: &[&'a Registration]) -> Vec<&'a str> {
    let of_services = registrations.iter().map(|one| &one.key.scope);
    let of_services = of_services.filter(|scope| scope.kind == ScopeKind::Service);
    let services: HashSet<&str> = of_services.map(|scope| scope.key.as_str()).collect();
    if services.len() * MANY > registrations.len() {
        return Vec::new();
    }
    services.into_iter().collect()
}

/// Returns the registrations in groups that treat known instances alike. Nearly always one.
fn by_resets<'a>(registrations: &[&'a Registration]) -> HashMap<Resets, Vec<&'a Registration>> {
    let mut groups: HashMap<Resets, Vec<&Registration>> = HashMap::default();
    for registration in registrations {
        let group = groups.entry(registration.resets()).or_default();
        group.push(registration);
    }
    groups
}
