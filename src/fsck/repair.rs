//! Repairs that follow from what is there, without judgement.

use super::{Cure, Finding, Options, Result};
use crate::catalog::{Catalog, ObjectState};
use crate::lower::Lower;
use crate::recording::{NodeId, State};
use crate::store::{self, Store, hidden};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Does what the findings ask for. What can not be proved is left as it is.
pub(super) async fn all(options: &Options, findings: &[Finding]) -> Result<()> {
    let cures: BTreeSet<Cure> = findings.iter().filter_map(|f| f.repair).collect();
    let catalog = Catalog::open(options.catalog.clone())?;
    let done = each(options, &catalog, &cures, findings).await;
    catalog.close();
    done
}

async fn each(
    options: &Options,
    catalog: &Catalog,
    cures: &BTreeSet<Cure>,
    findings: &[Finding],
) -> Result<()> {
    for cure in cures {
        match cure {
            Cure::Mend => catalog.mend()?,
            Cure::NameKey(number) => {
                if let Some((store, _)) = options.targets.get(*number) {
                    catalog.set_setting(&hidden::told_setting(store.name()), "")?;
                }
            }
            Cure::Released(id) => released(options, catalog, *id).await?,
            Cure::Leftovers => {
                // It would put aside what is not spare; that is left to the start of a daemon.
                let doubt = findings.iter().any(|f| f.rule == 20 && f.repair.is_none());
                if !doubt && proved(options, catalog, findings).await? {
                    // Opening it removes them, by the same rules as at a start.
                    Lower::open(&options.lower)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether the targets have everything whose spare copy is about to go.
async fn proved(options: &Options, catalog: &Catalog, findings: &[Finding]) -> Result<bool> {
    let copies = findings.iter().filter(|f| f.rule == 20);
    let names = copies.filter_map(|f| f.place.strip_prefix(".spl/gone/"));
    let ids = names.filter_map(|name| name.split('-').next()?.parse().ok()).map(NodeId);
    for id in ids {
        if !is_archived(options, catalog, id).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An archived recording without a local copy is released, if it is in every required target.
async fn released(options: &Options, catalog: &Catalog, id: NodeId) -> Result<()> {
    let archived = catalog.node(id)?.is_some_and(|row| row.state == State::Archived);
    if archived && is_archived(options, catalog, id).await? {
        catalog.missing_below(id)?;
    }
    Ok(())
}

/// Whether each required target, or if none is required some target, proves that it has the
/// current generation. Where rules name targets, of the required ones those that it was archived
/// to, and some target.
async fn is_archived(options: &Options, catalog: &Catalog, id: NodeId) -> Result<bool> {
    let Some(row) = catalog.node(id)? else { return Ok(false) };
    let objects = catalog.objects(id, Some(row.generation))?;
    let required: Vec<&Arc<dyn Store>> =
        options.targets.iter().filter(|(_, required)| *required).map(|(store, _)| store).collect();
    let mut proofs = 0;
    for (store, required) in &options.targets {
        let object = objects.iter().find(|o| {
            o.target == store.name()
                && o.state == ObjectState::Verified
                && Some(o.sha256) == row.sha256
        });
        let proof = match object {
            Some(o) => {
                store::verify(&**store, &o.key, o.stored.size, o.stored.sha256).await.is_ok()
            }
            None => false,
        };
        if *required && !proof && (object.is_some() || !options.by_rule) {
            return Ok(false);
        }
        proofs += usize::from(proof);
    }
    Ok(proofs > 0 && (options.by_rule || proofs >= required.len()))
}
