<#
.SYNOPSIS
Proves on a Windows host that virtual disks written by vdadmin are what they should be.

.DESCRIPTION
For each disk: Get-VHD reads its headers, Test-VHD checks it together with its parents,
then it is attached read-only, without a drive letter, every byte of it is read, and the
SHA-256 is compared with the one that "manage.py disk hash" gave. Nothing is written.

Needs an elevated PowerShell and the Hyper-V module (Windows Server, or Windows 10/11 Pro:
Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V-Management-PowerShell).

.PARAMETER Path
The disks; wildcards are allowed. A differencing disk's parents must be where its header
says: that is the point.

.PARAMETER Expected
The expected SHA-256 values, one for each disk in the same order, or a file made by
    manage.py disk hash DISK >> hashes.txt
whose lines are "<sha256>  <path>"; disks are then matched by their file names.

.EXAMPLE
.\prove-on-windows.ps1 -Path D:\VMs\child.vhd -Expected b7922a46a6b08fa4f4fc0c51a25d5587d1d49f15cfade45ca740dd07110ae144

.EXAMPLE
.\prove-on-windows.ps1 -Path D:\VMs\*.vhd -Expected .\hashes.txt
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string[]] $Path,
    [string[]] $Expected = @()
)

Set-StrictMode -Version 3
$ErrorActionPreference = 'Stop'

$identity = [Security.Principal.WindowsIdentity]::GetCurrent()
$isAdministrator = ([Security.Principal.WindowsPrincipal] $identity).IsInRole(
    [Security.Principal.WindowsBuiltInRole]::Administrator)
if (-not $isAdministrator) { throw 'Start PowerShell as administrator: attaching a disk needs it.' }
if (-not (Get-Command Get-VHD -ErrorAction SilentlyContinue)) {
    throw 'The Hyper-V module for PowerShell is missing; see the description of this script.'
}

# What the raw device gives, up to exactly Size bytes. Reads of a raw disk are whole MiB here,
# the last one whole sectors: the virtual size is a multiple of 512.
function Get-ContentHash([string] $Device, [uint64] $Size) {
    $sha = [Security.Cryptography.SHA256]::Create()
    $stream = [IO.FileStream]::new($Device, [IO.FileMode]::Open, [IO.FileAccess]::Read,
        [IO.FileShare]::ReadWrite)
    try {
        $buffer = [byte[]]::new(1MB)
        [uint64] $done = 0
        while ($done -lt $Size) {
            $wanted = [int] [Math]::Min([uint64] $buffer.Length, $Size - $done)
            $count = $stream.Read($buffer, 0, $wanted)
            if ($count -eq 0) { throw "$Device ends after $done of $Size bytes." }
            [void] $sha.TransformBlock($buffer, 0, $count, $null, 0)
            $done += $count
        }
        [void] $sha.TransformFinalBlock([byte[]]::new(0), 0, 0)
        return [BitConverter]::ToString($sha.Hash).Replace('-', '').ToLowerInvariant()
    }
    finally { $stream.Dispose(); $sha.Dispose() }
}

$files = @($Path | ForEach-Object { Get-Item -Path $_ })
$byName = @{}
$inOrder = @()
if ($Expected.Count -eq 1 -and (Test-Path -LiteralPath $Expected[0] -PathType Leaf)) {
    foreach ($line in Get-Content -LiteralPath $Expected[0]) {
        if ($line -match '^([0-9a-fA-F]{64})\s+(.+)$') {
            $byName[($Matches[2] -split '[\\/]')[-1]] = $Matches[1].ToLowerInvariant()
        }
    }
}
else { $inOrder = @($Expected | ForEach-Object { $_.ToLowerInvariant() }) }

$failed = 0
for ($index = 0; $index -lt $files.Count; $index++) {
    $file = $files[$index]
    $row = [ordered] @{ File = $file.FullName; Type = $null; Parent = $null; Size = $null
        Identity = $null; TestVHD = $false; SHA256 = $null; Verdict = $null }
    try {
        $vhd = Get-VHD -Path $file.FullName
        $row.Type = $vhd.VhdType
        $row.Parent = $vhd.ParentPath
        $row.Size = $vhd.Size
        $row.Identity = $vhd.DiskIdentifier
        $row.TestVHD = Test-VHD -Path $file.FullName
        if (-not $row.TestVHD) { throw 'Test-VHD found the disk, or its chain, not usable.' }
        $disk = Mount-VHD -Path $file.FullName -ReadOnly -NoDriveLetter -Passthru | Get-Disk
        try { $row.SHA256 = Get-ContentHash "\\.\PhysicalDrive$($disk.Number)" $vhd.Size }
        finally { Dismount-VHD -Path $file.FullName }
        $want = $null
        if ($byName.ContainsKey($file.Name)) { $want = $byName[$file.Name] }
        elseif ($index -lt $inOrder.Count) { $want = $inOrder[$index] }
        if (-not $want) { $row.Verdict = 'readable; no hash given to compare with' }
        elseif ($want -eq $row.SHA256) { $row.Verdict = 'proven: the content is the expected one' }
        else { throw "The content differs: expected $want." }
    }
    catch {
        $row.Verdict = "FAILED: $($_.Exception.Message)"
        $failed++
    }
    [pscustomobject] $row
}
if ($failed) { Write-Error "$failed of $($files.Count) disks failed." -ErrorAction Continue; exit 1 }
