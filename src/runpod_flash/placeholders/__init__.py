"""Stand-ins for absent packages that a project file imports at its top level."""
