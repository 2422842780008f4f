-- A job that has ended when it is first written is one row: its call is in the row itself, and what
-- the rows show is not counted again. Tallies are of those that are not kept any more.
ALTER TABLE jobs ADD COLUMN call BLOB;

INSERT OR REPLACE INTO tallies
SELECT endpoint, completed - c, failed - f, retried - r FROM tallies JOIN (
    SELECT endpoint, sum(state = 'COMPLETED') AS c, sum(state IN ('FAILED', 'TIMED_OUT')) AS f,
        sum(max(attempt - 1, 0)) AS r
    FROM jobs GROUP BY endpoint
) USING (endpoint);
