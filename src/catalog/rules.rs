//! What is always true of the catalog. Each rule is a query that finds nothing.

/// Number, name and query of each rule (docs/CATALOG.md, "Consistency rules").
pub const RULES: &[(u32, &str, &str)] = &[
    (
        1,
        "the root is there",
        "SELECT 1 WHERE NOT EXISTS(SELECT 1 FROM node WHERE id = 1 AND kind = 2)",
    ),
    (
        2,
        "a name belongs to a node that is not deleted",
        "SELECT e.id FROM entry e LEFT JOIN node n ON n.id = e.node
         WHERE n.id IS NULL OR n.state = 5",
    ),
    (
        3,
        "a tombstone has a path, and objects that keep it",
        "SELECT id FROM node WHERE state = 5 AND (path IS NULL OR objects = 0)",
    ),
    (
        4,
        "a released recording has a name",
        "SELECT id FROM node n WHERE state = 4 AND NOT EXISTS(SELECT 1 FROM entry WHERE node = n.id)",
    ),
    (
        5,
        "an archived or released recording has a generation, a hash, a stamp and a time",
        "SELECT id FROM node WHERE state IN (3, 4) AND (kind <> 1 OR generation = 0
            OR sha256 IS NULL OR h_ino IS NULL OR archived_at IS NULL OR local_since IS NULL)",
    ),
    (
        6,
        "the current generation is stored, with the hash of the node",
        "SELECT n.id FROM node n LEFT JOIN generation g
            ON g.node = n.id AND g.generation = n.generation
         WHERE n.generation > 0 AND g.sha256 IS NOT n.sha256",
    ),
    (
        7,
        "an archived or released recording has a verified object of its generation and hash",
        "SELECT id FROM node n WHERE state IN (3, 4) AND NOT EXISTS(SELECT 1 FROM object o
            WHERE o.node = n.id AND o.generation = n.generation AND o.state = 2)",
    ),
    (
        8,
        "an object belongs to a stored generation of a node that knows of it",
        "SELECT o.id FROM object o LEFT JOIN generation g
            ON g.node = o.node AND g.generation = o.generation
         LEFT JOIN node n ON n.id = o.node
         WHERE g.node IS NULL OR n.id IS NULL OR n.objects = 0",
    ),
    (
        9,
        "a generation has at most one live object in a target",
        "SELECT node FROM object WHERE state IN (1, 2) GROUP BY node, generation, target
         HAVING count(*) > 1",
    ),
    (
        10,
        "a verified object says when",
        "SELECT id FROM object WHERE state = 2 AND verified_at IS NULL",
    ),
    (
        11,
        "a name mirrors the tier of its node",
        "SELECT e.id FROM entry e JOIN node n ON n.id = e.node
         WHERE e.released <> CASE WHEN n.state = 4 THEN 1 WHEN n.tier > 0 THEN 2 ELSE 0 END OR e.tier <> n.tier",
    ),
    (
        12,
        "a stamp is whole or not there, and only of a hashed file",
        "SELECT id FROM node WHERE (h_ino IS NULL) + (h_size IS NULL) + (h_mtime IS NULL)
            + (h_ctime IS NULL) NOT IN (0, 4) OR (h_ino IS NOT NULL AND sha256 IS NULL)",
    ),
    (
        13,
        "a closed file says when it was closed",
        "SELECT id FROM node WHERE kind = 1 AND state = 2 AND closed_at IS NULL",
    ),
    (
        14,
        "only files have a state other than recording",
        "SELECT id FROM node WHERE kind <> 1 AND state <> 1",
    ),
    (
        15,
        "no node counts more changes of tier than there were",
        "SELECT id FROM node WHERE tier > (SELECT tier FROM position)",
    ),
    (
        16,
        "journal rows are numbered up to the position, without a gap",
        "SELECT most FROM (SELECT max(seq) AS most, min(seq) AS least, count(*) AS rows FROM journal)
         WHERE most <> (SELECT journal FROM position) OR most - least + 1 <> rows",
    ),
    (
        17,
        "no target has more of the journal than there is",
        "SELECT target FROM journal_mark WHERE seq > (SELECT journal FROM position)",
    ),
    (
        18,
        "files and bytes of each state are what is counted",
        "SELECT t.bucket FROM tally t LEFT JOIN (
            SELECT CASE WHEN state = 2 AND size = 0 THEN 10 ELSE state END AS bucket,
                count(*) AS files, sum(size) AS bytes FROM node WHERE kind = 1 GROUP BY 1
            UNION ALL SELECT 11, count(*), sum(size) FROM node
                WHERE kind = 1 AND state = 2 AND size > 0 AND h_ino IS NULL
            UNION ALL SELECT 12, count(*), sum(size) FROM node WHERE attempts > 0
         ) c ON c.bucket = t.bucket
         WHERE t.files <> ifnull(c.files, 0) OR t.bytes <> ifnull(c.bytes, 0)",
    ),
    (
        19,
        "a name is not empty and has no slash, and its directory is one",
        "SELECT e.id FROM entry e LEFT JOIN node p ON p.id = e.parent
         WHERE length(e.name) = 0 OR instr(e.name, X'2F') > 0 OR p.kind IS NOT 2",
    ),
    (
        20,
        "only a file with a local copy is suspect",
        "SELECT id FROM node WHERE suspect IS NOT NULL AND (kind <> 1 OR state IN (4, 5))",
    ),
    (
        21,
        "an object that is not the recording itself has a length and a hash of its own",
        "SELECT id FROM object WHERE (encoding IS NULL) <> (stored_size IS NULL)
             OR (encoding IS NULL) <> (stored_sha256 IS NULL) OR encoding IN ('', 'plain')",
    ),
    (
        22,
        "what is in the trash has no name and is a tombstone with a verified object, or a file in \
         the private directory",
        "SELECT t.node FROM trash t LEFT JOIN node n ON n.id = t.node
         WHERE n.id IS NULL OR n.kind <> 1 OR EXISTS(SELECT 1 FROM entry e WHERE e.node = t.node)
            OR t.local <> CASE n.state WHEN 5 THEN 0 WHEN 3 THEN 2 WHEN 4 THEN -1 ELSE 1 END
            OR (n.state = 5 AND NOT EXISTS(SELECT 1 FROM object o
                WHERE o.node = n.id AND o.generation = n.generation AND o.state = 2))",
    ),
    (
        23,
        "recordings and bytes in the trash are what is counted",
        "SELECT y.id FROM trash_tally y, (SELECT count(*) AS files, ifnull(sum(size), 0) AS bytes
            FROM trash) t WHERE y.files <> t.files OR y.bytes <> t.bytes",
    ),
    (
        24,
        "a recording is held by a hold that is known",
        "SELECT d.node FROM held d WHERE NOT EXISTS(SELECT 1 FROM hold h WHERE h.id = d.hold)",
    ),
];
